from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import BadRequest
from service.image.prepare import PrepareRecipe, plan_tiles, prepare
from service.training.features import FeatureBank, own_features, photometric, reflect_side
from service.training.flaws import paint_flaw
from service.training.network import Detector, Pdn, mixed_precision, normalise
from service.training.penalty import PenaltyImages
from service.training.recipes import RECIPES, recipe_named
from service.training.select import Selection
from service.training.train import Trainer, hard_loss

RNG = np.random.default_rng(0)
PICTURES = [RNG.integers(0, 256, (100, 140, 3), dtype=np.uint8) for _ in range(3)]
RECIPE = PrepareRecipe(value=300)


@pytest.fixture(scope="module")
def teacher() -> Pdn:
    torch.manual_seed(0)
    return Pdn("small").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def bank(teacher: Pdn) -> FeatureBank:
    return FeatureBank(PICTURES, RECIPE, teacher)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(0, 1000))
def test_hard_loss_is_the_mean_above_the_quantile_of_each_image(batch: int, seed: int) -> None:
    difference = torch.from_numpy(np.random.default_rng(seed).normal(size=(batch, 8, 10, 25)).astype(np.float32))
    squared = difference.square().flatten(1)
    cut = torch.quantile(squared, 0.99, dim=1, keepdim=True)
    expected = torch.stack([row[row >= limit].mean() for row, limit in zip(squared, cut, strict=True)]).mean()
    assert hard_loss(difference, 0.01) == pytest.approx(float(expected), rel=1e-5)


def test_hard_loss_does_not_change_its_meaning_with_the_batch() -> None:
    one, two = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8) * 10
    together = hard_loss(torch.cat([one, two]), 0.1)
    assert together == pytest.approx(float((hard_loss(one, 0.1) + hard_loss(two, 0.1)) / 2), rel=1e-5)


def test_cached_features_equal_those_of_the_window_itself(bank: FeatureBank, teacher: Pdn) -> None:
    drawn = bank.windows(np.random.default_rng(3), 2)
    with torch.no_grad():
        fresh = teacher(normalise(drawn.images))
    scale = fresh.abs().mean()
    assert (drawn.features - fresh).abs().max() / scale < 0.05  # bfloat16 and float16 rounding
    correlation = np.corrcoef(drawn.features.numpy().ravel(), fresh.numpy().ravel())[0, 1]
    assert correlation > 0.9999


def test_what_fills_up_a_window_is_no_lesson(bank: FeatureBank) -> None:
    """A picture of 300x214 px has 75x54 cells of a canvas of 112x56: the rest mirrors them, and serving throws it away."""
    assert bank.canvases[0].canvas.shape[:2] == (256, 480)
    rng = np.random.default_rng(0)
    drawn = [bank.windows(rng, 1).own[0].numpy() for _ in range(200)]
    assert all(mask[:54].any() and not mask[54:].any() for mask in drawn)
    shares = np.array([mask[0].mean() for mask in drawn])  # of a window's columns
    assert set(np.round(56 * shares).astype(int)) == {19, 56}
    narrow = (shares < 0.5).mean()  # half the windows lie as serving cuts them, of them 19 in 75
    assert 0.06 < narrow < 0.2
    wholes = bank.augmented_wholes(rng, 2).own
    assert wholes.sum().item() == 2 * 40 * 56  # 224x160 px


def test_the_loss_is_of_the_cells_that_count(bank: FeatureBank) -> None:
    difference, own = torch.randn(2, 4, 8, 8), torch.zeros(2, 8, 8, dtype=torch.bool)
    own[0, :3], own[1] = True, True
    for share in (0.1, 1.0):
        cut = (hard_loss(difference[:1, :, :3], share) + hard_loss(difference[1:], share)) / 2
        difference[0, :, 3:] = 1e3
        assert hard_loss(difference, share, own) == pytest.approx(float(cut), rel=1e-6)


def test_statistics_standardise_the_features(bank: FeatureBank) -> None:
    mean, std = bank.statistics()
    features = torch.cat([own_features(canvas).float().flatten(1) for canvas in bank.canvases], dim=1)
    standard = (features - mean[:, None]) / std[:, None]
    assert standard.mean(1).abs().max() < 1e-2
    assert (standard.std(1) - 1).abs().max() < 1e-2


def test_augmentation_changes_light_and_not_structure() -> None:
    for seed in range(12):
        changed = photometric(PICTURES[0], np.random.default_rng(seed))
        assert (changed != PICTURES[0]).any()
        grey = [picture.astype(float).mean(axis=2).ravel() for picture in (PICTURES[0], changed)]
        assert np.corrcoef(grey)[0, 1] > 0.97


def test_brightness_contrast_or_saturation_changes_by_up_to_a_fifth() -> None:
    plain = np.full(
        (8, 8, 3), (150, 100, 50), np.uint8
    )  # whichever it is, red stays ahead of blue by 100 times the factor
    changed = [photometric(plain, np.random.default_rng(seed)).astype(int) for seed in range(60)]
    factors = [(picture[0, 0, 0] - picture[0, 0, 2]) / 100 for picture in changed]
    assert all((picture == picture[0, 0]).all() for picture in changed)
    assert 0.79 <= min(factors) < 0.85  # levels are whole
    assert 1.15 < max(factors) <= 1.21


def test_painted_flaws_change_the_picture_within_their_mask() -> None:
    smooth = np.full((120, 160, 3), 128, np.uint8)
    smooth[::2] += 9
    for seed in range(40):
        painted, mask = paint_flaw(smooth, np.random.default_rng(seed))
        changed = np.abs(painted.astype(int) - smooth).max(axis=2)
        assert mask.any()
        assert not mask.all()
        assert changed[~mask].mean() < changed[mask].mean()


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_painted_flaw_can_be_seen_on_white_and_on_black_too(level: int) -> None:
    plain = np.full((60, 80, 3), level, np.uint8)
    for seed in range(200):
        painted, mask = paint_flaw(plain, np.random.default_rng(seed))
        assert np.abs(painted.astype(int) - level)[mask].mean() > 2


def test_no_flaw_misses_a_narrow_picture() -> None:
    """A scratch that begins at a long border may run outside the picture alone."""
    narrow = np.random.default_rng(1).integers(60, 200, (40, 400, 3), dtype=np.uint8)
    for seed in range(200):
        painted, mask = paint_flaw(narrow, np.random.default_rng(seed))
        assert not mask.all(), seed
        assert (painted != narrow)[mask].any(), seed


def test_flaws_on_a_grey_picture_are_grey_and_on_a_coloured_one_coloured() -> None:
    """Colour would give away every flaw of a grey product, and hide which features tell a real one."""
    grey = np.repeat(RNG.integers(60, 200, (90, 120, 1), dtype=np.uint8), 3, axis=2)
    coloured = grey.copy()
    coloured[..., 0] //= 2
    for seed in range(40):
        painted, mask = paint_flaw(grey, np.random.default_rng(seed))
        assert np.ptp(painted, axis=2).max() == 0
        assert (painted != grey)[mask].any()
    shift = [paint_flaw(coloured, np.random.default_rng(seed))[0].astype(int) - coloured for seed in range(40)]
    assert sum(np.ptp(each, axis=2).max() > 0 for each in shift) > 30


def test_penalty_images_are_general_pictures(tmp_path: Path) -> None:
    generated = PenaltyImages(None).draw(np.random.default_rng(0), 2, 128)
    assert generated.shape == (2, 128, 128, 3)
    Image.new("RGB", (300, 200), (200, 10, 10)).save(tmp_path / "red.png")
    given = PenaltyImages(tmp_path).draw(np.random.default_rng(0), 12)
    assert given.shape == (12, 256, 256, 3)
    grey = (given[..., 0] == given[..., 1]).flatten(1).all(1)
    assert 0 < grey.sum() < 12
    with pytest.raises(BadRequest, match="no picture"):
        PenaltyImages(_empty(tmp_path))


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name: str) -> None:
    recipe = recipe_named(name, 38)
    if name == "paper":
        assert (recipe.steps, recipe.learning_rate, recipe.weight_decay) == (70_000, 1e-4, 1e-5)
        assert (recipe.batch, recipe.hard_share, recipe.tail, recipe.patience) == (1, 0.001, 0.05, None)
    if name == "matlab":
        assert recipe.steps == 38 * 8 * 100
        assert (recipe.learning_rate, recipe.weight_decay, recipe.batch, recipe.tail) == (1e-4, 1e-5, 1, 0.05)
    if name == "default":
        assert [recipe_named(name, images).steps for images in (38, 250, 400, 9000)] == [1000, 1000, 1600, 2000]


def test_an_unknown_recipe_is_said() -> None:
    with pytest.raises(BadRequest, match="default, paper, matlab"):
        recipe_named("fast", 1)


def make(teacher: Pdn, bank: FeatureBank, steps: int) -> Trainer:
    recipe = replace(
        recipe_named("default", 3), steps=steps, batch=1, penalty_side=64, evaluate_every=2, warm_up=1, patience=None
    )
    chooser = Selection(PICTURES[:2], RECIPE, global_map=True, min_flaw_px=4, flaws_each=1, window_limit=12)
    return Trainer(teacher, bank, PenaltyImages(None), chooser, recipe, global_map=True, seed=5)


def test_the_paper_s_rate_falls_to_a_tenth_at_95_percent(teacher: Pdn, bank: FeatureBank) -> None:
    trainer = make(teacher, bank, steps=1)
    trainer.recipe = recipe_named("paper", 3)
    trainer.end = trainer.recipe.steps
    assert [trainer._rate(step) for step in (0, 66_499, 66_500, 69_999)] == [1, 1, 0.1, 0.1]


def test_a_recipe_without_penalty_draws_no_penalty_image(
    teacher: Pdn, bank: FeatureBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    draw = PenaltyImages.draw
    monkeypatch.setattr(PenaltyImages, "draw", lambda *given: drawn.append(given[2]) or draw(*given))
    trainer = make(teacher, bank, steps=2)
    losses = []
    for batch in (1, 0):
        trainer.recipe = replace(trainer.recipe, penalty_batch=batch)
        losses.append(float(trainer._loss(np.random.default_rng(0)).detach()))
    assert drawn == [1]
    assert np.isfinite(losses[1])


@pytest.mark.slow
def test_a_killed_training_goes_on_as_if_nothing_had_happened(teacher: Pdn, bank: FeatureBank, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill_at_three(step: int, steps: int, loss: float) -> None:
        if step == 3:
            raise Killed

    whole = make(teacher, bank, 4)
    whole.run(tmp_path / "whole.pt")
    after_whole = torch.get_rng_state()
    with pytest.raises(Killed):
        make(teacher, bank, 4).run(tmp_path / "killed.pt", kill_at_three)
    resumed = make(teacher, bank, 4)
    seen: list[int] = []
    resumed.run(tmp_path / "killed.pt", lambda step, steps, loss: seen.append(step))
    assert seen == [3, 4]  # from the checkpoint at step 2
    assert [step for step, _ in resumed.history.losses] == [1, 2, 3, 4]
    np.testing.assert_allclose(
        [loss for _, loss in resumed.history.losses], [loss for _, loss in whole.history.losses], rtol=1e-6
    )
    np.testing.assert_allclose(resumed.history.scores, whole.history.scores, rtol=1e-6)
    for mine, theirs in zip(resumed.detector.parameters(), whole.detector.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.get_rng_state(), after_whole)
    old = torch.load(tmp_path / "whole.pt", weights_only=True)
    del old["random"]  # as checkpoints were before
    torch.save(old, tmp_path / "old.pt")
    assert make(teacher, bank, 4)._resume(tmp_path / "old.pt") == 4
    other = make(teacher, bank, 5)
    with pytest.raises(BadRequest, match="another recipe"):
        other.run(tmp_path / "killed.pt")


def scripted(trainer: Trainer, scores: Sequence[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that only mark the student with their number, evaluations that give these scores, one after the other."""
    coming = iter(scores)

    def mark(step: int) -> float:
        with torch.no_grad():
            next(trainer.detector.student.parameters()).fill_(step + 1)
        return 1.0

    monkeypatch.setattr(trainer, "_step", mark)
    monkeypatch.setattr(trainer.selection, "score", lambda detector: next(coming))


def kept(detector: Detector) -> float:
    """The step of a scripted detector."""
    return next(detector.student.parameters()).unique().item()


def test_the_checkpoint_is_kept_that_tells_flaws_best_after_the_rate_has_fallen(
    teacher: Pdn, bank: FeatureBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(teacher, bank, 20)
    trainer.recipe = replace(trainer.recipe, tail=0.3)
    assert trainer._rate(15) > 0.5 >= trainer._rate(17)
    scripted(trainer, (0.5, 0.9, 0.8, 0.7, 0.7, 0.7, 0.7, 0.6, 0.7, 0.65), monkeypatch)
    assert kept(trainer.run(tmp_path / "run.pt")) == 18  # neither 4, from the middle of the run, nor 20
    again = make(teacher, bank, 20)  # from the file alone
    again.recipe = trainer.recipe
    assert kept(again.best_so_far(tmp_path / "run.pt")) == 18


def test_of_a_run_that_was_stopped_early_the_best_so_far_is_taken(
    teacher: Pdn, bank: FeatureBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    def kill(step: int, steps: int, loss: float) -> None:
        if step == 9:
            raise Killed

    trainer = make(teacher, bank, 20)
    scripted(trainer, (0.5, 0.9, 0.8, 0.7), monkeypatch)
    with pytest.raises(Killed):
        trainer.run(tmp_path / "run.pt", kill)
    assert kept(make(teacher, bank, 20).best_so_far(tmp_path / "run.pt")) == 4


def test_a_run_that_gets_no_better_ends_earlier_with_its_falling_rate(
    teacher: Pdn, bank: FeatureBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(teacher, bank, 100)
    trainer.recipe = replace(trainer.recipe, evaluate_every=10, patience=2, tail=0.3)
    scripted(trainer, (0.5, 0.9, 0.8, 0.7, 0.6, 0.6), monkeypatch)
    trainer.run(tmp_path / "run.pt")
    assert (
        trainer.end == 58
    )  # two evaluations without a better one at step 40, which becomes the 70 % before the rate falls
    assert [step for step, _ in trainer.history.scores] == [10, 20, 30, 40, 50, 58]
    assert trainer._rate(40) == 1
    assert trainer._rate(57) < 0.2


def test_bfloat16_is_used_only_where_the_processor_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    dtypes = []
    for told in ({"avx2": True}, {"avx2": True, "avx512_bf16": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda told=told: told, raising=False)
        with mixed_precision(torch.device("cpu")):
            dtypes.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
    assert dtypes == [torch.float32, torch.bfloat16]


def test_a_run_with_little_time_ends_earlier_and_lets_its_rate_fall_there(teacher: Pdn, bank: FeatureBank) -> None:
    trainer = make(teacher, bank, 400)
    trainer.minutes = 100 / 60
    trainer._end_in_time(1.0)  # a second a step
    assert trainer.end == 100
    assert trainer._rate(99) < 0.3 < trainer._rate(50)
    trainer.minutes = 1.0
    with pytest.raises(BadRequest, match="at least 2 minutes"):
        trainer._end_in_time(1.0)


def test_the_border_is_seen_as_often_as_serving_shows_it(teacher: Pdn, bank: FeatureBank) -> None:
    """With free offsets alone the border is in a few percent of windows, and stays anomalous for ever."""
    rng = np.random.default_rng(0)
    places = [bank.windows(rng, 1).images[0].numpy() for _ in range(80)]
    lefts = {canvas.canvas[:256, :256].tobytes() for canvas in bank.canvases}
    width = bank.canvases[0].canvas.shape[1]
    assert width > 256
    assert sum(window.tobytes() in lefts for window in places) > 0.12 * len(places)


def test_a_border_of_its_own_looks_as_serving_shows_the_real_one() -> None:
    canvas = torch.from_numpy(prepare(PICTURES[0], plan_tiles(140, 100, PrepareRecipe(value=224), global_map=False))[0])
    torch.testing.assert_close(reflect_side(canvas, 0), canvas)  # the upper border of this window is reflected already
    plain = torch.from_numpy(RNG.integers(0, 256, (256, 256, 3), dtype=np.uint8))
    for side in range(4):
        changed = (reflect_side(plain, side) != plain).any(dim=2)
        assert changed.sum() == pytest.approx(16 * 256, rel=0.01)
