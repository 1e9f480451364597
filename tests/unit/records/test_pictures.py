from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path

import pytest

from service.errors import NoSuchRecord, RecordsFailure
from service.records.pictures import Pictures

DATA = b"a picture"
SHA = hashlib.sha256(DATA).hexdigest()


def test_a_picture_is_kept_once_under_its_hash(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    pictures.put(SHA, DATA)
    pictures.put(SHA, DATA)
    assert pictures.get(SHA) == DATA
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / SHA[:2] / SHA[2:4] / f"{SHA}.bin"]
    (kept,) = pictures.all()
    assert (kept.sha256, kept.size) == (SHA, len(DATA))


def test_a_picture_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    sync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda handle: (steps.append("fsync"), sync(handle))[1])
    monkeypatch.setattr(Path, "rename", lambda self, to: (steps.append("rename"), rename(self, to))[1])
    Pictures(tmp_path).put(SHA, DATA)
    place = steps.index("rename")
    assert "fsync" in steps[:place]
    assert "fsync" in steps[place:]


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "a" * 63, "b" * 64])
def test_only_a_stored_hash_is_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(NoSuchRecord):
        Pictures(tmp_path).get(name)


def test_a_folder_that_cannot_be_read_is_no_missing_picture(tmp_path: Path) -> None:
    (tmp_path / SHA[:2] / SHA[2:4] / f"{SHA}.bin").mkdir(parents=True)
    with pytest.raises(RecordsFailure, match="could not be read"):
        Pictures(tmp_path).get(SHA)


def test_a_folder_that_takes_nothing_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / SHA[:2]).touch()
    with pytest.raises(RecordsFailure):
        Pictures(tmp_path).put(SHA, DATA)
    assert list(Pictures(tmp_path).all()) == []


def test_a_young_picture_is_not_removed(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    pictures.put(SHA, DATA)
    assert not pictures.remove(SHA)
    assert pictures.get(SHA) == DATA
    old = time.time() - 7200
    os.utime(tmp_path / SHA[:2] / SHA[2:4] / f"{SHA}.bin", (old, old))
    pictures.put(SHA, DATA)  # received again
    assert not pictures.remove(SHA)
    assert pictures.remove(SHA, grace_s=0)
    assert not pictures.remove(SHA, grace_s=0)
    with pytest.raises(NoSuchRecord):
        pictures.get(SHA)


def test_one_received_while_it_is_removed_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = Pictures(tmp_path)
    pictures.put(SHA, DATA)
    path = tmp_path / SHA[:2] / SHA[2:4] / f"{SHA}.bin"
    old = time.time() - 7200
    os.utime(path, (old, old))
    rename = Path.rename

    def received_meanwhile(self: Path, target: Path) -> Path:
        if self == path:
            monkeypatch.setattr(Path, "rename", rename)
            pictures.put(SHA, DATA)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", received_meanwhile)
    assert not pictures.remove(SHA)
    assert pictures.get(SHA) == DATA


def test_leftovers_of_a_cut_write_go(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    pictures.put(SHA, DATA)
    fresh, stale = (tmp_path / SHA[:2] / SHA[2:4] / name for name in (".fresh", ".stale"))
    fresh.touch()
    stale.touch()
    os.utime(stale, (0, 0))
    assert [kept.sha256 for kept in pictures.all()] == [SHA]
    assert (fresh.exists(), stale.exists()) == (True, False)


def test_many_threads_keep_one_picture(tmp_path: Path) -> None:
    pictures = Pictures(tmp_path)
    threads = [threading.Thread(target=pictures.put, args=(SHA, DATA)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [kept.sha256 for kept in pictures.all()] == [SHA]
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1
