"""The cache of teacher features takes no more memory than there is."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from service.image.prepare import PrepareRecipe
from service.training import features
from service.training.energies import Energies
from service.training.features import FeatureBank
from service.training.network import Pdn

PICTURES = [np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8) for seed in range(4)]
ONE = 64 * 64 * 384 * 2  # bytes of a window's features, with those of its margin


@pytest.fixture(scope="module")
def teacher() -> Pdn:
    torch.manual_seed(0)
    return Pdn("small").eval().requires_grad_(False)


@pytest.mark.parametrize(("available", "cached"), [(3 * 2.5 * ONE, 2), (0, 1), (10**15, 4), (None, 4)])
def test_the_cache_takes_a_third_of_what_is_left_and_one_picture_at_least(
    teacher: Pdn, monkeypatch: pytest.MonkeyPatch, available: float | None, cached: int
) -> None:
    monkeypatch.setattr(features, "available_memory", lambda: None if available is None else int(available))
    bank = FeatureBank(PICTURES, PrepareRecipe(value=80), teacher)
    assert sum(canvas.features is not None for canvas in bank.canvases) == cached
    assert all(torch.isfinite(each).all() for each in bank.statistics())


@pytest.mark.parametrize("network", [Pdn, Energies])
def test_it_works_where_its_teacher_is_now(network: type[Pdn | Energies], monkeypatch: pytest.MonkeyPatch) -> None:
    """A trained detector is moved to the CPU, and its teacher, which the bank shares, with it."""
    shared = network("small").eval().requires_grad_(False)
    bank = FeatureBank(PICTURES[:1], PrepareRecipe(value=80), shared)
    assert bank.device == torch.device("cpu")
    torch.nn.ModuleList([shared]).to("meta")
    assert bank.device == torch.device("meta")
    monkeypatch.setattr(features, "mixed_precision", lambda device: nullcontext())  # "meta" has none
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    drawn = bank.windows(np.random.default_rng(0), 8)
    assert {each.device.type for each in (drawn.images, drawn.features, drawn.own)} == {"meta"}


def test_it_never_takes_more_than_its_limit(teacher: Pdn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "available_memory", lambda: 10**15)
    monkeypatch.setattr(features, "_CACHE_BYTES", int(3.5 * ONE))
    bank = FeatureBank(PICTURES, PrepareRecipe(value=80), teacher)
    assert sum(canvas.features is not None for canvas in bank.canvases) == 3
