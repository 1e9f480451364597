"""The folder that write_dataset makes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.samples import flaw_types, write_dataset

KIND = "brushed-metal"


def contents(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_dataset(KIND, tmp_path / "a" / "plate", 2, 5, progress=lambda done, total: seen.append((done, total)))
    root = tmp_path / "a" / "plate"
    expected = {f"{split}/good/{k:03}.png" for split in ("train", "test") for k in range(2)}
    expected |= {f"test/{flaw}/{k:03}.png" for flaw in flaw_types(KIND) for k in range(2)}
    expected |= {f"ground_truth/{flaw}/{k:03}_mask.png" for flaw in flaw_types(KIND) for k in range(2)}
    assert set(contents(root)) == expected
    assert seen == [(k + 1, 12) for k in range(12)]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["plate"]
    with (
        Image.open(root / "test/pit/001.png") as picture,
        Image.open(root / "ground_truth/pit/001_mask.png") as m,
    ):
        assert picture.mode == "RGB"
        assert m.mode == "L"
        assert picture.size == m.size == (512, 512)
        assert set(np.unique(np.asarray(m))) == {0, 255}


def test_a_larger_set_contains_a_smaller_one(tmp_path: Path) -> None:
    write_dataset(KIND, tmp_path / "small", 1, 7, flawed=1)
    write_dataset(KIND, tmp_path / "large", 2, 7, flawed=2)
    write_dataset(KIND, tmp_path / "other", 1, 8, flawed=1)
    small, large, other = (contents(tmp_path / name) for name in ("small", "large", "other"))
    assert small.items() < large.items()
    assert len(set(large.values())) == len(large)
    assert not set(small.values()) & set(other.values())


def test_an_empty_folder_is_filled_in_place(tmp_path: Path) -> None:
    target = tmp_path / "made"
    target.mkdir()
    before = target.stat().st_ino
    write_dataset(KIND, target, 1, 0, flawed=0)
    assert target.stat().st_ino == before
    assert set(contents(target)) == {"train/good/000.png", "test/good/000.png"}


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(KIND, tmp_path / "plate", 2, 0, flawed=0, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_refusals_leave_the_folder_alone(tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="not an empty folder"):
        write_dataset(KIND, used, 1, 0)
    with pytest.raises(ValueError, match="is a file"):
        write_dataset(KIND, used / "mine.txt", 1, 0)
    with pytest.raises(ValueError, match="at least one good part"):
        write_dataset(KIND, tmp_path / "new", 0, 0)
    with pytest.raises(ValueError, match="flawed parts cannot be -1"):
        write_dataset(KIND, tmp_path / "new", 1, 0, flawed=-1)
    with pytest.raises(ValueError, match="seed cannot be -1"):
        write_dataset(KIND, tmp_path / "new", 1, -1)
    with pytest.raises(ValueError, match="no kind"):
        write_dataset("teapot", tmp_path / "new", 1, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["used"]
    assert (used / "mine.txt").read_text() == "keep"
