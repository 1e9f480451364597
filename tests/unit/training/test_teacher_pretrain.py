"""Pre-training: what the two views share, resuming, and that it learns to find a place again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from service.errors import BadRequest
from service.samples.textures import random_texture
from service.training.drawing import Drawing, drawn
from service.training.network import Pdn, normalise
from service.training.pack import pack_pictures
from service.training.pretrain import export_teacher, pretrain, teacher_of
from service.training.teacher import load_teacher, save_teacher
from service.training.teacher_checkpoint import Checkpoint, read_checkpoint
from service.training.teacher_run import PretrainSettings
from service.training.teacher_views import draw_views, flaw_cells, load_pictures

SHORT = PretrainSettings(
    folders=(), generated=6, steps=4, batch=3, crop=48, positions=4, save_every=2, learning_rate=1e-3, seed=5
)


def test_second_view_starts_where_its_shift_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.training.teacher_views.disturb", lambda patch, rng: patch)
    picture = np.random.default_rng(0).integers(0, 255, (200, 210, 3), dtype=np.uint8)
    rng = np.random.default_rng(1)
    views = draw_views([picture], 12, 48, 0, rng)
    assert views.shifts.any()
    for first, second, (dy, dx) in zip(views.first, views.second, views.shifts * 4, strict=True):
        np.testing.assert_array_equal(first[dy:, dx:], second[: 48 - dy, : 48 - dx])


def test_jitter_moves_the_second_view_by_at_most_that_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.training.teacher_views.disturb", lambda patch, rng: patch)
    picture = np.random.default_rng(0).integers(0, 255, (200, 210, 3), dtype=np.uint8)
    views = draw_views([picture], 12, 48, 2, np.random.default_rng(1))
    found = set()
    for first, second, shift in zip(views.first, views.second, views.shifts * 4, strict=True):
        inner = second[4:36, 4:36].astype(int)
        places = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if min(4 + shift + (y, x)) >= 0]
        errors = [
            np.abs(first[4 + shift[0] + y :, 4 + shift[1] + x :][:32, :32].astype(int) - inner).max() for y, x in places
        ]
        assert min(errors) == 0
        found.add(places[int(np.argmin(errors))])
    assert len(found) > 3


def test_views_differ_only_mildly() -> None:
    picture = random_texture(np.random.default_rng(3), 200, 200)
    views = draw_views([picture], 8, 64, 0, np.random.default_rng(4))
    for first, second, (dy, dx) in zip(views.first, views.second, views.shifts * 4, strict=True):
        same = first[dy:, dx:].astype(float), second[: 64 - dy, : 64 - dx].astype(float)
        assert not np.array_equal(*same)
        assert np.abs(same[0].mean() - same[1].mean()) < 80


def test_a_cell_is_flawed_by_what_lies_in_its_middle() -> None:
    mask = np.zeros((97, 97), bool)
    mask[46:51, 46:51] = True  # around pixel 48, the middle of cell 8
    cells = flaw_cells(mask)
    assert cells.shape == (17, 17)
    assert cells[8, 8] == 1
    assert np.isnan(cells[8, 12])  # sees it at the rim of its field
    assert cells[8, 14] == 0  # does not see it
    assert (flaw_cells(np.zeros((97, 97), bool)) == 0).all()


def test_the_flawed_view_lies_where_the_first_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.training.teacher_views.disturb", lambda patch, rng: patch)
    picture = random_texture(np.random.default_rng(3), 200, 200)
    views = draw_views([picture], 8, 96, 0, np.random.default_rng(4))
    for first, flawed, flaw in zip(views.first, views.flawed, views.flaw, strict=True):
        changed = np.abs(first.astype(int) - flawed).max(axis=2)
        for row, column in np.argwhere(flaw == 0):
            assert changed[4 * row : 4 * row + 33, 4 * column : 4 * column + 33].max() < 60
        assert changed.max() > 0
    assert (views.flaw == 1).any()


class Stopped(Exception):
    pass


def stop_behind(wanted: int) -> Callable[[int, int, float], None]:
    """A progress that stops a run behind that step."""

    def stop(step: int, steps: int, loss: float) -> None:
        if step == wanted:
            raise Stopped

    return stop


def test_stopped_run_goes_on_to_the_same_teacher(tmp_path: Path) -> None:
    whole = pretrain(SHORT, tmp_path / "whole.pt")
    with pytest.raises(Stopped):
        pretrain(SHORT, tmp_path / "parts.pt", stop_behind(3))  # after the checkpoint of step 2
    seen: list[int] = []
    resumed = pretrain(SHORT, tmp_path / "parts.pt", lambda step, steps, loss: seen.append(step))
    assert seen == [3, 4]
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_run_in_parts_goes_on_from_them_to_the_same_teacher(tmp_path: Path) -> None:
    most = 512 * 1024
    whole = pretrain(SHORT, Checkpoint(tmp_path / "whole.pt", most))
    kept = Checkpoint(tmp_path / "run.pt", most)
    with pytest.raises(Stopped):
        pretrain(SHORT, kept, stop_behind(3))  # after the checkpoint of step 2
    parts = sorted(tmp_path.glob("run.pt.*"))
    assert len(parts) > 10
    assert max(path.stat().st_size for path in parts) <= most
    assert not kept.file.exists()
    (tmp_path / "run.pt.00000004.part00of99").write_bytes(b"of a set that was never finished")
    seen: list[int] = []
    resumed = pretrain(SHORT, kept, lambda step, steps, loss: seen.append(step))
    assert seen == [3, 4]
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    assert {path.name.split(".")[2] for path in tmp_path.glob("run.pt.*")} == {"00000004"}
    export_teacher(kept.file, "own", tmp_path, {})
    assert load_teacher("own", tmp_path).card["steps"] == 4


def test_parts_hold_the_moments_in_half_the_bytes(tmp_path: Path) -> None:
    short = replace(SHORT, steps=1)
    pretrain(short, tmp_path / "whole.pt")
    pretrain(short, Checkpoint(tmp_path / "parts.pt", 2**20))
    whole, parts = read_checkpoint(tmp_path / "whole.pt"), read_checkpoint(tmp_path / "parts.pt")
    for name, weight in whole["learner"].items():
        torch.testing.assert_close(weight, parts["learner"][name])
    exact, rounded = (state["optimiser"]["state"][0]["exp_avg"] for state in (whole, parts))
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded, exact.bfloat16())
    assert (
        sum(path.stat().st_size for path in tmp_path.glob("parts.pt.*")) < 0.7 * (tmp_path / "whole.pt").stat().st_size
    )


def test_a_run_goes_on_where_its_folders_have_moved_and_not_with_other_pictures(tmp_path: Path) -> None:
    def settings(place: str) -> PretrainSettings:
        return replace(
            SHORT, folders=(str(tmp_path / place / "photos"),), start_from=str(tmp_path / place / "earlier.pt")
        )

    (tmp_path / "here" / "photos").mkdir(parents=True)
    Image.fromarray(random_texture(np.random.default_rng(0), 90, 120)).save(tmp_path / "here" / "photos" / "a.png")
    pretrain(replace(SHORT, steps=1), tmp_path / "here" / "earlier.pt")
    with pytest.raises(Stopped):
        pretrain(settings("here"), tmp_path / "run.pt", stop_behind(3))
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "there" / "earlier.pt").unlink()  # what it started from is no longer needed
    seen: list[int] = []
    pretrain(settings("there"), tmp_path / "run.pt", lambda step, steps, loss: seen.append(step))
    assert seen == [3, 4]
    export_teacher(tmp_path / "run.pt", "own", tmp_path, {})
    assert [run["steps_done"] for run in load_teacher("own", tmp_path).card["recipe"]["runs"]] == [1, 4]
    Image.fromarray(random_texture(np.random.default_rng(1), 90, 120)).save(tmp_path / "there" / "photos" / "a.png")
    with pytest.raises(BadRequest, match="other settings or pictures"):
        pretrain(settings("there"), tmp_path / "run.pt")


def test_processes_draw_what_a_thread_draws() -> None:
    pictures = [random_texture(np.random.default_rng(seed), 70 + seed, 90) for seed in range(3)]
    drawing = Drawing(2, 48, 2, 7)
    alone, together = (list(drawn(drawing, pictures, range(3, 8), workers)) for workers in (0, 2))
    assert len(alone) == len(together) == 5
    for one, other in zip(alone, together, strict=True):
        for name in ("first", "second", "shifts", "flawed", "flaw"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_pictures_are_packed_in_parts_of_a_size_and_look_alike(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for index in range(5):
        picture = random_texture(np.random.default_rng(index), 300, 400)
        Image.fromarray(picture).save(tmp_path / "photos" / f"{index}.png")
    most = 150_000
    parts, count = pack_pictures(tmp_path / "photos", tmp_path / "packed", most)
    assert count == 5
    assert parts > 1
    for part in range(parts):
        assert sum(path.stat().st_size for path in (tmp_path / "packed" / f"part{part:02}").iterdir()) <= most
    before, after = (load_pictures((str(tmp_path / name),), 0, 0) for name in ("photos", "packed"))
    for one, other in zip(before, after, strict=True):
        assert one.shape == other.shape == (288, 384, 3)
        assert np.abs(one.astype(int) - other).mean() < 4
    with pytest.raises(BadRequest, match="not an empty folder"):
        pack_pictures(tmp_path / "photos", tmp_path / "packed", most)


def test_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    pretrain(replace(SHORT, steps=2), tmp_path / "run.pt")
    with pytest.raises(BadRequest, match="other settings"):
        pretrain(replace(SHORT, steps=2, seed=6), tmp_path / "run.pt")


def test_a_file_that_is_no_checkpoint_is_said(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    for name in ("other.pt", "junk.pt"):
        with pytest.raises(BadRequest, match=f"{name} is no checkpoint"):
            pretrain(SHORT, tmp_path / name)
        with pytest.raises(BadRequest, match=f"{name} is no checkpoint"):
            pretrain(replace(SHORT, start_from=str(tmp_path / name)), tmp_path / "run.pt")


def test_warm_start_goes_on_from_the_earlier_weights(tmp_path: Path) -> None:
    earlier = pretrain(replace(SHORT, steps=2), tmp_path / "earlier.pt")
    still = replace(SHORT, steps=1, learning_rate=1e-9, start_from=str(tmp_path / "earlier.pt"))
    later = pretrain(still, tmp_path / "later.pt")
    for one, other in zip(earlier.parameters(), later.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    export_teacher(tmp_path / "later.pt", "later", tmp_path, {})
    assert [run["steps_done"] for run in load_teacher("later", tmp_path).card["recipe"]["runs"]] == [2, 1]


def test_a_run_may_go_on_from_a_teacher(tmp_path: Path) -> None:
    pretrain(replace(SHORT, steps=2), tmp_path / "earlier.pt")
    teacher = export_teacher(tmp_path / "earlier.pt", "earlier", tmp_path, {})
    still = replace(SHORT, steps=1, learning_rate=1e-9, start_from=str(teacher))
    later = pretrain(still, tmp_path / "later.pt")
    for one, other in zip(load_teacher("earlier", tmp_path).network.parameters(), later.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    export_teacher(tmp_path / "later.pt", "later", tmp_path, {})
    assert [run["steps_done"] for run in load_teacher("later", tmp_path).card["recipe"]["runs"]] == [2, 1]


def test_a_medium_network_begins_as_the_small_one(tmp_path: Path) -> None:
    pretrain(replace(SHORT, steps=2), tmp_path / "earlier.pt")
    teacher = export_teacher(tmp_path / "earlier.pt", "earlier", tmp_path, {})
    still = replace(SHORT, size="medium", steps=1, learning_rate=1e-9, start_from=str(teacher))
    medium = pretrain(still, tmp_path / "medium.pt")
    assert medium.size == "medium"
    seen = normalise(torch.from_numpy(random_texture(np.random.default_rng(9), 80, 100)[None].copy()))
    expected = load_teacher("earlier", tmp_path).network(seen)
    assert expected.std() > 0
    torch.testing.assert_close(medium(seen), expected, atol=1e-5, rtol=1e-4)
    assert all(weight.abs().sum() > 0 for weight in medium.layers[8].weight)  # the further channels see something


def test_a_small_network_does_not_begin_as_a_medium_one(tmp_path: Path) -> None:
    pretrain(replace(SHORT, size="medium", steps=1), tmp_path / "medium.pt")
    teacher = export_teacher(tmp_path / "medium.pt", "medium", tmp_path, {})
    with pytest.raises(BadRequest, match="is no PDN-small"):
        pretrain(replace(SHORT, start_from=str(teacher)), tmp_path / "small.pt")


def test_export_carries_settings_data_and_weights_but_no_paths(tmp_path: Path) -> None:
    folder = tmp_path / "private" / "photos"
    folder.mkdir(parents=True)
    Image.fromarray(random_texture(np.random.default_rng(0), 90, 120)).save(folder / "a.png")
    pretrain(replace(SHORT, steps=2, folders=(str(folder),)), tmp_path / "run.pt")
    export_teacher(tmp_path / "run.pt", "own", tmp_path, {"data": "photos (CC0)"})
    teacher = load_teacher("own", tmp_path)
    assert teacher.card["data"] == "photos (CC0)"
    (run,) = teacher.card["recipe"]["runs"]
    assert run["steps_done"] == 2
    assert run["settings"]["folders"] == ["photos"]
    assert "private" not in (tmp_path / "own.json").read_text()
    image = torch.randn(1, 3, 41, 41)
    torch.testing.assert_close(teacher.network(image), teacher_of(tmp_path / "run.pt")(image), atol=0.02, rtol=0)


def test_learning_finds_places_again(tmp_path: Path) -> None:
    for index in range(4):  # pictures in which no two places are alike
        blocks = np.random.default_rng(index).integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(np.kron(blocks, np.ones((8, 8, 1), np.uint8))).save(tmp_path / f"{index}.png")
    losses: list[float] = []
    settings = replace(SHORT, folders=(str(tmp_path),), generated=0, steps=40, batch=4, positions=16, covariance=0.0)
    pretrain(settings, tmp_path / "run.pt", lambda step, steps, loss: losses.append(loss))
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:4])


def wide_teacher(place: Path) -> Path:
    """A medium teacher of its own."""
    torch.manual_seed(3)
    return save_teacher(Pdn("medium").eval(), "wide", place, {})


def test_a_small_network_learns_a_wide_ones_features(tmp_path: Path) -> None:
    wide, losses = wide_teacher(tmp_path), list[float]()
    settings = replace(SHORT, steps=20, distil=str(wide))
    taught = pretrain(settings, tmp_path / "run.pt", lambda step, steps, loss: losses.append(loss))
    untaught = pretrain(replace(settings, steps=1, learning_rate=1e-9), tmp_path / "still.pt")
    assert taught.size == "small"
    assert np.mean(losses[-5:]) < 0.75 * losses[0]
    seen = normalise(torch.from_numpy(np.stack(load_pictures((), 4, seed=99))))  # textures that it has not learned from
    wanted = load_teacher(str(wide)).network(seen)
    missed, missed_before = ((network(seen) - wanted).square().mean() for network in (taught, untaught))
    assert missed < 0.75 * missed_before


def test_a_stopped_distillation_goes_on_to_the_same_teacher_and_from_the_same_wide_one(tmp_path: Path) -> None:
    settings = replace(SHORT, distil=str(wide_teacher(tmp_path)))
    whole = pretrain(settings, tmp_path / "whole.pt")
    with pytest.raises(Stopped):
        pretrain(settings, tmp_path / "run.pt", stop_behind(3))  # after the checkpoint of step 2
    seen: list[int] = []
    resumed = pretrain(settings, tmp_path / "run.pt", lambda step, steps, loss: seen.append(step))
    assert seen == [3, 4]
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    other = save_teacher(Pdn("medium").eval(), "other", tmp_path, {})
    for other_run in (replace(settings, distil=None), replace(settings, distil=str(other))):
        with pytest.raises(BadRequest, match="other settings or pictures"):
            pretrain(other_run, tmp_path / "run.pt")


def test_the_card_of_a_distilled_teacher_says_from_which_one_and_what_came_before(tmp_path: Path) -> None:
    wide = wide_teacher(tmp_path)
    pretrain(replace(SHORT, steps=2), tmp_path / "earlier.pt")
    settings = replace(SHORT, steps=1, start_from=str(tmp_path / "earlier.pt"), distil=str(wide))
    pretrain(settings, tmp_path / "later.pt")
    export_teacher(tmp_path / "later.pt", "later", tmp_path, {})
    card = load_teacher("later", tmp_path).card
    assert card["recipe"]["method"].endswith("; then distilled from wide")
    assert [run["steps_done"] for run in card["recipe"]["runs"]] == [2, 1]
    told = card["recipe"]["runs"][1]["settings"]
    assert told["distil"] == {"name": "wide.safetensors", "sha256": load_teacher(str(wide)).sha256}
    assert "temperature" not in told
    assert "temperature" in card["recipe"]["runs"][0]["settings"]
    assert str(tmp_path) not in json.dumps(card)


def test_a_run_that_was_kept_before_there_was_distillation_goes_on(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        pretrain(SHORT, tmp_path / "run.pt", stop_behind(3))
    state = read_checkpoint(tmp_path / "run.pt")
    del state["identity"], state["before"], state["settings"]["distil"]  # as the first releases kept it
    torch.save(state, tmp_path / "run.pt")
    seen: list[int] = []
    pretrain(SHORT, tmp_path / "run.pt", lambda step, steps, loss: seen.append(step))
    assert seen == [3, 4]


def test_folder_without_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="no picture in"):
        load_pictures((str(tmp_path),), 0, 0)


def test_pictures_are_decoded_as_everywhere(tmp_path: Path) -> None:
    """Pillow's own conversion makes 16-bit grey white."""
    ramp = np.tile(np.linspace(0, 65535, 100).astype(np.uint16), (90, 1))
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    (seen,) = load_pictures((str(tmp_path),), 0, 0)
    assert 100 < seen.mean() < 140
    (tmp_path / "torn.png").write_bytes(b"no picture")
    with pytest.raises(BadRequest, match=r"torn\.png"):
        load_pictures((str(tmp_path),), 0, 0)


def test_pictures_are_kept_small_and_textures_added(tmp_path: Path) -> None:
    Image.new("L", (1000, 640), 90).save(tmp_path / "large.png")
    pictures = load_pictures((str(tmp_path),), 2, 0)
    assert [picture.shape for picture in pictures] == [(288, 450, 3), (256, 256, 3), (256, 256, 3)]
