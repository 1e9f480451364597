from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.errors import BadRequest
from service.image.prepare import PrepareRecipe
from service.settings import Settings
from service.training.data import (
    NormalImage,
    _merged,
    _part,
    choose_recipe,
    decoding_scale,
    find_images,
    load_pictures,
    require_memory,
    split_folder,
)

RNG = np.random.default_rng(0)


def write(path: Path, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(path)


def test_splits_are_disjoint_by_part_and_use_everything(tmp_path: Path) -> None:
    for part in range(30):
        for shot in range(3):
            write(tmp_path / f"part{part:02}_shot{shot}.png")
    splits = split_folder(tmp_path, group_by=r"part(\d+)")
    uses = [splits.train, splits.validation, splits.calibration]
    parts = [{image.part for image in use} for use in uses]
    assert sum(map(len, uses)) == 90
    assert parts[0].isdisjoint(parts[1] | parts[2])
    assert parts[1].isdisjoint(parts[2])
    assert [len(part) for part in parts] == [21, 3, 6]
    assert splits == split_folder(tmp_path, group_by=r"part(\d+)")
    assert splits.fingerprint() != split_folder(tmp_path, group_by=r"part(\d+)", seed=1).fingerprint()


@pytest.mark.parametrize(
    ("expression", "name", "part"),
    [
        (r"part(\d+)", "part07_a.png", "07"),
        (r"part\d+", "part07_a.png", "part07"),
        (r"part(\d+)|tile(\d+)", "part07_a.png", "07"),
        (r"part(\d+)|tile(\d+)", "tile08_a.png", "08"),
        (r"tile\d+(_b)?", "tile08_a.png", "tile08"),
    ],
)
def test_a_part_is_named_by_the_first_group_that_took_part(expression: str, name: str, part: str) -> None:
    assert _part(name, expression) == part


def test_parts_of_either_alternative_are_told_apart(tmp_path: Path) -> None:
    for k in range(24):
        write(tmp_path / f"{'part' if k < 12 else 'tile'}{k:02}_{k % 2}.png")
    images = split_folder(tmp_path, group_by=r"part(\d+)|tile(\d+)").images
    assert {image.part for image in images} == {f"{k:02}" for k in range(24)}


def test_the_first_pictures_of_each_use_stand_for_all(tmp_path: Path) -> None:
    """Many things are judged by the first few that fit: they must not be the shots of one part."""
    for part in range(30):
        for shot in range(3):
            write(tmp_path / f"part{part:02}_shot{shot}.png")
    splits = split_folder(tmp_path, group_by=r"part(\d+)")
    for use, parts in ((splits.train, 21), (splits.validation, 3), (splits.calibration, 6)):
        assert len({image.part for image in use[:parts]}) == parts
        assert [image.path for image in use] != sorted(image.path for image in use)
    assert len({image.path.stem[-1] for image in splits.train[:21]}) == 3  # nor are they all first shots


def test_of_an_mvtec_tree_only_train_good_is_taken(tmp_path: Path) -> None:
    for k in range(12):
        write(tmp_path / "train" / "good" / f"{k}.png")
        write(tmp_path / "test" / "crack" / f"{k}.png")
    splits = split_folder(tmp_path)
    images = (*splits.train, *splits.validation, *splits.calibration)
    assert {image.path.parent.name for image in images} == {"good"}
    assert len(images) == 12


def test_what_is_wrong_is_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="not a folder"):
        split_folder(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadRequest, match="no picture"):
        split_folder(tmp_path / "empty")
    for k in range(9):
        write(tmp_path / "few" / f"{k}.png")
    with pytest.raises(BadRequest, match="at least 10"):
        split_folder(tmp_path / "few")
    write(tmp_path / "few" / "9.png")
    (tmp_path / "few" / "broken.png").write_bytes(b"junk")
    with pytest.raises(BadRequest, match=r"1 of 11 images cannot be read.*\n.*broken\.png"):
        split_folder(tmp_path / "few")
    (tmp_path / "few" / "broken.png").unlink()
    with pytest.raises(BadRequest, match="not a regular expression"):
        split_folder(tmp_path / "few", group_by="(")
    with pytest.raises(BadRequest, match="does not match"):
        split_folder(tmp_path / "few", group_by="tile")


def test_pictures_damaged_behind_their_header_are_all_named(tmp_path: Path) -> None:
    for k in range(14):
        write(tmp_path / f"lot{k % 2}" / f"{k}.jpg", (200, 150))
    torn = sorted(tmp_path.rglob("*.jpg"))[1:13]
    for file in torn:
        file.write_bytes(file.read_bytes()[: file.stat().st_size * 3 // 5])
    images = split_folder(tmp_path).images  # their headers are sound
    assert len(images) == 14
    with pytest.raises(BadRequest) as refused:
        load_pictures(images)
    assert refused.value.detail.startswith("12 of 14 images cannot be read; remove or mend them:\n")
    lines = refused.value.detail.splitlines()[1:]
    assert len(lines) == 10
    assert {line.strip().partition(": ")[0] for line in lines} <= {str(file) for file in torn}
    assert "broken or cut short" in lines[0]


@pytest.mark.parametrize(("available", "fits"), [(None, True), (7.3e9, True), (7.1e9, False)])
def test_pictures_that_take_more_than_half_of_memory_are_refused(
    monkeypatch: pytest.MonkeyPatch, available: float | None, fits: bool
) -> None:
    """100 of 12 megapixels are 3.6 GB."""
    monkeypatch.setattr("service.training.data.available_memory", lambda: available)
    images = [NormalImage(Path(f"{k}.png"), f"{k}", 4000, 3000) for k in range(100)]
    if fits:
        require_memory(images, 1, PrepareRecipe(value=448))
        return
    with pytest.raises(BadRequest, match=r"4000x3000 px take 3\.6 GB when decoded.*7\.1 GB"):
        require_memory(images, 1, PrepareRecipe(value=448))


def test_what_is_said_of_too_little_memory_would_help(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = PrepareRecipe(value=448, jpeg="scaled")
    images = [NormalImage(Path(f"{k}.jpg"), f"{k}", 4000, 3000, jpeg=True) for k in range(100)]
    monkeypatch.setattr("service.training.data.available_memory", lambda: 1.8e9)
    with pytest.raises(BadRequest) as refused:
        require_memory(images, 1, recipe)
    assert (
        "take at most 25 of them, or shrink them to 2000 px, 4.4 times the working size, here and on the line"
        in refused.value.detail
    )
    assert "JPEGs" in refused.value.detail
    require_memory(images[:25], 1, recipe)
    require_memory([NormalImage(each.path, each.part, 2000, 1500) for each in images], 1, recipe)
    assert decoding_scale(images, recipe) == 8
    require_memory(images, 8, recipe)
    monkeypatch.setattr("service.training.data.available_memory", lambda: 1e6)
    with pytest.raises(BadRequest, match=r"left here: give it more memory$"):
        require_memory(images, 8, recipe)


def test_pictures_larger_than_the_service_takes_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(12):
        write(tmp_path / f"{k}.png", (200, 300))
    assert not any("FLAWSCRIBE_MAX_MEGAPIXELS" in note for note in split_folder(tmp_path).notes)
    monkeypatch.setattr(Settings.model_fields["max_megapixels"], "default", 0.05)
    assert any("FLAWSCRIBE_MAX_MEGAPIXELS" in note for note in split_folder(tmp_path).notes)


def test_mixed_sizes_are_noted_and_share_a_scale(tmp_path: Path) -> None:
    for k in range(12):
        write(tmp_path / f"{k}.png", (200 + 40 * k, 300 - 10 * k))
    splits = split_folder(tmp_path)
    assert any("mixed sizes" in note for note in splits.notes)
    assert choose_recipe(splits.train, None).rule == "scale"


@pytest.mark.parametrize(
    ("size", "asked", "expected"),
    [((1280, 720), None, 448), ((300, 300), None, 300), ((100, 80), None, 224), ((1280, 720), 800, 800)],
)
def test_the_working_size_fits_the_pictures(
    tmp_path: Path, size: tuple[int, int], asked: int | None, expected: int
) -> None:
    for k in range(10):
        write(tmp_path / f"{k}.png", size)
    recipe = choose_recipe(split_folder(tmp_path).train, asked)
    assert (recipe.rule, recipe.value) == ("long_side", expected)


@pytest.mark.parametrize(
    ("sizes", "suffix", "expected"),
    [
        ([(1280, 720)], "jpg", "scaled"),
        ([(1280, 720)], "png", "full"),
        ([(1281, 720)], "jpg", "full"),
        ([(1280, 720), (1288, 720)], "jpg", "scaled"),
        ([(1280, 720), (2560, 1440)], "jpg", "full"),  # at 1/2 and 1/4: their pixels would not mean the same
        ([(400, 300)], "jpg", "full"),
    ],
)
def test_jpegs_are_decoded_at_one_scale_or_whole(
    tmp_path: Path, sizes: list[tuple[int, int]], suffix: str, expected: str
) -> None:
    for k in range(10):
        write(tmp_path / f"{k}.{suffix}", sizes[k % len(sizes)])
    splits = split_folder(tmp_path)
    images = (*splits.train, *splits.validation, *splits.calibration)
    recipe = choose_recipe(images, None)
    assert recipe.jpeg == expected
    scale = decoding_scale(images, recipe)
    assert scale == (2 if expected == "scaled" else 1)
    assert load_pictures(splits.train, scale)[0].shape[1] == splits.train[0].width // scale


def test_what_shares_a_picture_is_one_part(tmp_path: Path) -> None:
    """Scores of pictures that were learned would set the thresholds."""
    for k in range(40):
        write(tmp_path / f"{k:02}.png")
        (tmp_path / "backup").mkdir(exist_ok=True)
        (tmp_path / "backup" / f"copy{k:02}.png").write_bytes((tmp_path / f"{k:02}.png").read_bytes())
    splits = split_folder(tmp_path)
    contents = [
        {image.path.read_bytes() for image in use} for use in (splits.train, splits.validation, splits.calibration)
    ]
    assert list(map(len, contents)) == [28, 4, 8]
    assert not contents[0] & (contents[1] | contents[2])
    assert any("40 pictures are copies" in note for note in splits.notes)
    chained = _merged(["a", "b", "b", "c", "d"], ["1", "1", "2", "2", "3"])
    assert chained == ["a", "a", "a", "a", "d"]


def test_hidden_folders_and_a_system_s_own_hold_no_pictures(tmp_path: Path) -> None:
    for k in range(10):
        write(tmp_path / ".set" / f"{k}.png")  # the folder itself may be hidden
    for other in (".thumbnails/1.png", "@eaDir/1.png", ".1.png", "shown/__MACOSX/1.png"):
        write(tmp_path / ".set" / other)
    assert [path.name for path in find_images(tmp_path / ".set")] == [f"{k}.png" for k in range(10)]


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux alone")
def test_names_that_are_not_utf8_are_refused_before_the_training(tmp_path: Path) -> None:
    for k in range(10):
        write(tmp_path / f"{k}.png")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/geh\xe4use.png")).write_bytes((tmp_path / "1.png").read_bytes())
    with pytest.raises(BadRequest, match=r"1 pictures in .* not UTF-8, such as b'geh\\xe4use.png'"):
        split_folder(tmp_path)
