"""The teacher made by hand: what a cell sees, what it says, and that serving computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from service.engine.session import open_session
from service.samples.textures import random_texture
from service.training.energies import ENERGY_CHANNELS, Energies, whitened_on
from service.training.export import to_onnx
from service.training.network import Detector, Pdn, normalise
from service.training.quantize import quantize
from service.training.select import run_torch
from service.training.teacher import load_teacher, save_teacher


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    return [random_texture(np.random.default_rng(seed), 256, 256) for seed in range(6)]


@pytest.fixture(scope="module")
def teacher(pictures: list[np.ndarray]) -> Energies:
    return whitened_on(pictures, crops=24)


def window(pictures: list[np.ndarray], index: int) -> Tensor:
    return normalise(torch.from_numpy(pictures[index])[None])


@pytest.mark.parametrize(("row", "column"), [(0, 0), (5, 31), (55, 55)])
def test_a_cell_sees_no_more_than_a_pdns(teacher: Energies, pictures: list[np.ndarray], row: int, column: int) -> None:
    seen = window(pictures, 0)
    other = window(pictures, 1)
    rows, columns = (slice(4 * place, 4 * place + 33) for place in (row, column))
    other[..., rows, columns] = seen[..., rows, columns]
    cell, same = (teacher(x)[0, :, row, column] for x in (seen, other))
    assert torch.equal(cell, same)


def test_a_cell_sees_a_pixel_on_each_of_its_sides(teacher: Energies, pictures: list[np.ndarray]) -> None:
    seen = window(pictures, 0)
    for row, column in ((4, 16), (27, 16), (16, 4), (16, 27)):
        other = seen.clone()
        other[..., 80 + row, 80 + column] += 3
        assert (teacher(seen) - teacher(other))[0, :, 20, 20].abs().max() > 1e-3


def test_a_window_and_the_whole_picture_agree(teacher: Energies, pictures: list[np.ndarray]) -> None:
    whole = window(pictures, 2)
    parts = teacher(whole[..., 64:192, 32:160])
    assert (teacher(whole)[..., 16:40, 8:32] - parts).abs().max() < 1e-4


def test_channels_are_whitened_on_the_pictures(teacher: Energies, pictures: list[np.ndarray]) -> None:
    cells = torch.cat([teacher(window(pictures, index)).flatten(2)[0].T for index in range(len(pictures))])
    values = torch.linalg.eigvalsh(torch.cov(cells.double().T))[-ENERGY_CHANNELS:]
    assert cells.mean(dim=0).square().mean() < 0.5 * cells.var(dim=0).mean()
    assert values.max() / values.median() < 20  # of the energies themselves: over a thousand


def test_autocast_changes_nothing(teacher: Energies, pictures: list[np.ndarray]) -> None:
    seen = window(pictures, 3)
    with torch.autocast("cpu", torch.bfloat16):
        inside = teacher(seen)
    assert torch.equal(inside, teacher(seen))


def test_saved_and_loaded(teacher: Energies, pictures: list[np.ndarray], tmp_path: Path) -> None:
    save_teacher(teacher, "energies", tmp_path, {})
    loaded = load_teacher("energies", tmp_path)
    assert loaded.size == "small"
    assert loaded.card["kind"] == "energies"
    seen = window(pictures, 4)
    off = loaded.network(seen) - teacher(seen)  # float16 moves channels as a whole, which training takes off again
    assert off.std(dim=(2, 3)).max() < 0.02 * teacher(seen).std()


@pytest.mark.parametrize("directions", [None, 64])
def test_onnx_computes_the_same(teacher: Energies, pictures: list[np.ndarray], directions: int | None) -> None:
    torch.manual_seed(0)
    detector = Detector(teacher, Pdn("small"), None).eval().requires_grad_(False)
    if directions is not None:
        detector.directions = torch.randn(directions, 384) / 384**0.5
    grey = np.repeat(
        np.random.default_rng(0).integers(118, 122, (256, 256, 1), np.uint8), 3, axis=2
    )  # hardly any energy
    windows = np.stack([*pictures[:2], grey])
    expected = run_torch(detector, windows)
    answer = open_session(to_onnx(detector), form="float32", provider="cpu").run(windows, "maps and features")
    assert np.abs(answer.structural / expected.structural - 1).max() < 1e-3
    features = teacher(normalise(torch.from_numpy(windows))).numpy()
    assert answer.features is not None
    assert np.abs(answer.features - features).max() < 0.01 * np.abs(features).max()


def test_int8_leaves_the_energies_as_they_are(teacher: Energies, pictures: list[np.ndarray]) -> None:
    torch.manual_seed(0)
    detector = Detector(teacher, Pdn("small"), None).eval().requires_grad_(False)
    detector.directions = torch.randn(64, 384) / 384**0.5
    plain, windows = to_onnx(detector), np.stack(pictures[:3])
    int8 = quantize(plain, list(pictures))
    rounded = [node for node in onnx.load_model_from_string(int8).graph.node if node.op_type == "DequantizeLinear"]
    assert rounded, "the student is quantised"
    full, short = (
        open_session(data, form=form, provider="cpu").run(windows, "maps and features")
        for data, form in ((plain, "float32"), (int8, "int8"))
    )
    assert full.features is not None
    assert short.features is not None
    assert np.array_equal(full.features, short.features)
    assert np.abs(full.structural - short.structural).max() < 0.05 * full.structural.max()
