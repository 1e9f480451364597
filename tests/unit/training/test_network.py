"""The networks' geometry: what a cell sees, and shapes that the rest relies on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from service.training.network import IMAGE_MEAN, IMAGE_STD, PDN_SIZES, Autoencoder, Pdn, PdnSize, normalise


@pytest.mark.parametrize(
    ("size", "layers"),
    [
        ("small", [(4, 128), (4, 256), (3, 256), (4, 384)]),
        ("medium", [(4, 256), (4, 512), (1, 512), (3, 512), (4, 384), (1, 384)]),
    ],
)
def test_teacher_has_the_papers_layers(size: PdnSize, layers: list[tuple[int, int]]) -> None:
    convolutions = [module for module in Pdn(size).modules() if isinstance(module, torch.nn.Conv2d)]
    assert [(module.kernel_size[0], module.out_channels) for module in convolutions] == layers
    assert all(module.padding == (0, 0) for module in convolutions)


@pytest.mark.parametrize("size", PDN_SIZES)
@pytest.mark.parametrize("channels", [384, 768])
def test_window_gives_56_cells(size: PdnSize, channels: int) -> None:
    with torch.no_grad():
        assert Pdn(size, channels)(torch.zeros(1, 3, 256, 256)).shape == (1, channels, 56, 56)


@pytest.mark.parametrize("size", PDN_SIZES)
def test_cell_sees_exactly_33_pixels_from_4i(size: PdnSize) -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64, requires_grad=True)
    row, column = 3, 5
    Pdn(size)(image)[0, :, row, column].square().sum().backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum(dim=0) > 0
    rows, columns = np.nonzero(seen.any(dim=1).numpy())[0], np.nonzero(seen.any(dim=0).numpy())[0]
    assert (rows[0], rows[-1]) == (4 * row, 4 * row + 32)
    assert (columns[0], columns[-1]) == (4 * column, 4 * column + 32)


def test_windows_cells_are_those_of_one_pass_over_the_whole() -> None:
    torch.manual_seed(0)
    network = Pdn("small").eval()
    picture = torch.randn(1, 3, 96, 320)
    with torch.no_grad():
        whole = network(picture)
        piece = network(picture[..., 224:])
    torch.testing.assert_close(whole[..., 56 : 56 + piece.shape[-1]], piece, atol=1e-5, rtol=1e-4)


def test_autoencoder_fits_the_students_cells_and_passes_its_bottleneck() -> None:
    network = Autoencoder().eval()
    image = torch.randn(2, 3, 256, 256)
    with torch.no_grad():
        assert network.encoder(image).shape == (2, 64, 1, 1)
        assert network(image).shape == (2, 384, 56, 56)
        torch.testing.assert_close(network(image), network(image))  # no dropout outside training
    assert not torch.equal(network.train()(image), network(image))


def test_normalisation_is_imagenets_and_keeps_channel_order() -> None:
    pixel = torch.tensor([[[[255, 0, 51]]]], dtype=torch.uint8)
    expected = [
        (1.0 - IMAGE_MEAN[0]) / IMAGE_STD[0],
        -IMAGE_MEAN[1] / IMAGE_STD[1],
        (0.2 - IMAGE_MEAN[2]) / IMAGE_STD[2],
    ]
    assert normalise(pixel)[0, :, 0, 0].tolist() == pytest.approx(expected, abs=1e-5)
