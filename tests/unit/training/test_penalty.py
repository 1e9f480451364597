"""Penalty images: decoded once, and named where they cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.errors import BadRequest
from service.samples.textures import random_texture
from service.training.penalty import PenaltyImages


def plain(folder: Path, count: int) -> None:
    """`count` pictures, each in a grey of its own."""
    for index in range(count):
        Image.new("RGB", (40, 30), (index,) * 3).save(folder / f"{index:03}.png")


def test_no_file_is_read_while_steps_run(tmp_path: Path) -> None:
    plain(tmp_path, 5)
    images = PenaltyImages(tmp_path)
    before = images.draw(np.random.default_rng(1), 8, 64)
    for file in tmp_path.iterdir():
        file.unlink()
    drawn = images.draw(np.random.default_rng(1), 8, 64)
    assert drawn.shape == (8, 64, 64, 3)
    assert (drawn == before).all()
    assert len(drawn.unique()) > 1


def test_a_draw_is_the_middle_of_a_picture_resized(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (300, 700, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    middle = np.asarray(Image.fromarray(picture).resize((512, 512), Image.Resampling.BILINEAR))[128:384, 128:384]
    drawn = PenaltyImages(tmp_path).draw(np.random.default_rng(0), 12).numpy()
    coloured = [each for each in drawn if not (each[..., 0] == each[..., 1]).all()]
    assert 0 < len(coloured) < 12
    assert all((each == middle).all() for each in coloured)


def test_generated_textures_follow_their_seed_alone() -> None:
    drawn = PenaltyImages(None).draw(np.random.default_rng(4), 2, 96).numpy()
    rng = np.random.default_rng(4)
    np.testing.assert_array_equal(drawn, np.stack([random_texture(rng, 96, 96) for _ in range(2)]))


def test_of_many_files_some_are_taken_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.training.penalty.MOST", 4)
    plain(tmp_path, 10)
    said: list[str] = []
    images = PenaltyImages(tmp_path, said.append)
    assert [int(crop[0, 0, 0]) for crop in images.crops] == [0, 2, 5, 7]
    assert said == [f"4 of the 10 penalty images in {tmp_path} are taken"]
    for index in range(4, 10):
        (tmp_path / f"{index:03}.png").unlink()
    assert len(PenaltyImages(tmp_path, said.append).crops) == 4
    assert len(said) == 1


def test_the_digest_is_of_the_files_that_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.training.penalty.MOST", 4)
    plain(tmp_path, 8)  # every second is taken
    digest = PenaltyImages(tmp_path).digest
    assert PenaltyImages(None).digest == ""
    assert len(digest) == 64
    (tmp_path / "001.png").write_bytes((tmp_path / "002.png").read_bytes())
    assert PenaltyImages(tmp_path).digest == digest
    (tmp_path / "000.png").write_bytes((tmp_path / "002.png").read_bytes())
    changed = PenaltyImages(tmp_path).digest
    assert changed != digest
    (tmp_path / "004.png").rename(tmp_path / "0035.png")  # in the same place of the order
    assert PenaltyImages(tmp_path).digest not in (digest, changed)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    plain(tmp_path, 3)
    torn = tmp_path / "001.png"
    torn.write_bytes(torn.read_bytes()[:60])
    with pytest.raises(BadRequest, match=r"1 of 3 images cannot be read.*\n.*001\.png: "):
        PenaltyImages(tmp_path)
