"""A product gets the teacher whose features tell flaws painted on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from service.errors import BadRequest
from service.image.prepare import PrepareRecipe
from service.samples.textures import random_texture
from service.training import neighbours
from service.training.energies import whitened_on
from service.training.neighbours import PREFERRED, choose_teacher, is_better_lit
from service.training.network import Pdn
from service.training.select import Selection
from service.training.teacher import DEFAULT, Teacher, save_teacher

RECIPE = PrepareRecipe(value=224)


def part(seed: int) -> np.ndarray:
    """Ground of one kind, with a grain of its own."""
    ground = random_texture(np.random.default_rng(3), 224, 224).astype(np.float32)
    return np.clip(ground + np.random.default_rng(seed).normal(0, 4, ground.shape), 0, 255).astype(np.uint8)


def blind() -> Pdn:
    """A teacher that says the same of everything."""
    network = Pdn("small")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.layers[-1].bias.copy_(torch.linspace(0, 1, 384))
    return network.eval()


def chosen(folder: Path, said: list[str]) -> Teacher:
    pictures, held_out = ([part(seed) for seed in seeds] for seeds in (range(4), range(4, 7)))
    examples = Selection(held_out, RECIPE, global_map=False, min_flaw_px=8).examples
    return choose_teacher(folder, pictures, RECIPE, examples, torch.device("cpu"), said.append)


def test_the_teacher_that_tells_painted_flaws_is_chosen(tmp_path: Path) -> None:
    save_teacher(blind(), DEFAULT, tmp_path, {})
    save_teacher(whitened_on([part(0)], crops=8), "seeing", tmp_path, {})
    said: list[str] = []
    name = chosen(tmp_path, said).name
    assert name == "seeing", said
    assert "0.500 with pdn-small" in said[-1]
    assert "with seeing; seeing is used" in said[-1]


@pytest.mark.parametrize(("figure", "expected"), [(0.7, PREFERRED), (0.79, PREFERRED), (0.81, "another")])
def test_the_one_that_is_least_work_to_serve_is_chosen_unless_another_is_better_by_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figure: float, expected: str
) -> None:
    for name in ("another", PREFERRED):
        save_teacher(blind(), name, tmp_path, {"recipe": name})
    figures = iter((0.7, figure))  # it is looked at first
    monkeypatch.setattr(neighbours, "separation", lambda *_: next(figures))
    assert chosen(tmp_path, []).name == expected


def test_a_medium_teacher_is_taken_by_name_alone(tmp_path: Path) -> None:
    save_teacher(Pdn("medium"), "large", tmp_path, {})
    with pytest.raises(BadRequest, match="no small teacher in"):
        chosen(tmp_path, [])
    save_teacher(blind(), "only", tmp_path, {})
    assert chosen(tmp_path, []).name == "only"


@pytest.mark.parametrize(("evened", "expected"), [(0.69, False), (0.71, False), (0.73, True)])
def test_light_is_evened_out_only_where_flaws_are_told_clearly_better_so(
    monkeypatch: pytest.MonkeyPatch, evened: float, expected: bool
) -> None:
    figures = {"as_is": 0.7, "even": evened}
    monkeypatch.setattr(neighbours, "separation", lambda _, __, recipe, ___: figures[recipe.lighting])
    said: list[str] = []
    even = RECIPE.model_copy(update={"lighting": "even"})
    assert is_better_lit(blind(), [part(0)], (RECIPE, []), (even, []), said.append) == expected
    assert said[-1].endswith(
        f"0.700 in the light as it is, {evened:.3f} evened out; it is "
        + ("evened out" if expected else "taken as it is")
    )
