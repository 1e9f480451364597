"""A zip is a stranger's: what is no sound zip of pictures is refused, and nothing leaves the folder."""

from __future__ import annotations

import errno
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.errors import BadRequest, NotReady, TooLarge
from service.trainings.archive import ArchiveLimits, Unpacked, unpack
from tests.networks import grey_picture, png

PICTURE = png(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))


def zipped(path: Path, entries: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def test_pictures_come_out_with_their_folders_and_the_rest_is_left_out(tmp_path: Path) -> None:
    entries = {
        "good/1.png": PICTURE,
        "good/part 2/2.PNG": PICTURE,
        "notes.txt": b"lighting: ring",
        "__MACOSX/good/._1.png": b"resource fork",
        "good/.hidden.png": PICTURE,
    }
    unpacked = unpack(zipped(tmp_path / "a.zip", entries), tmp_path / "out")
    assert unpacked == Unpacked(pictures=2, left_out=3)
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"good/1.png", "good/part 2/2.PNG"}
    assert (tmp_path / "out/good/1.png").read_bytes() == PICTURE


@pytest.mark.parametrize(
    "name",
    [
        "../out.png",
        "/etc/out.png",
        "a/../../out.png",
        "a\\..\\..\\out.png",
        "C:/out.png",
        "a\n.png",
        "x" * 300 + ".png",
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    archive = zipped(tmp_path / "a.zip", {name: PICTURE})
    with pytest.raises(BadRequest, match="names must be short paths below"):
        unpack(archive, tmp_path / "in" / "out")
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    ("names", "told"),
    [(("a.jpg", "a.jpg/b/c.jpg"), "a file named as a folder"), (("圖" * 100 + ".png",), "too long for this disk")],
)
def test_names_that_the_disk_cannot_have_are_refused(tmp_path: Path, names: tuple[str, ...], told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        unpack(zipped(tmp_path / "a.zip", dict.fromkeys(names, PICTURE)), tmp_path / "out")


def test_a_disk_that_is_full_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("service.trainings.archive._copy", full)
    with pytest.raises(NotReady, match="cannot take the pictures: No space left on device"):
        unpack(zipped(tmp_path / "a.zip", {"1.png": PICTURE}), tmp_path / "out")


def test_a_link_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        entry = zipfile.ZipInfo("link.png")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(BadRequest, match="link or a device"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_bombs_stop_early(tmp_path: Path) -> None:
    flat = zipped(tmp_path / "flat.zip", {"a.bmp": bytes(50 << 20)})
    with pytest.raises(TooLarge, match="no picture does"):
        unpack(flat, tmp_path / "flat")
    assert sum(path.stat().st_size for path in (tmp_path / "flat").rglob("*.bmp")) < 10 << 20
    for limits in (ArchiveLimits(file_bytes=1000), ArchiveLimits(total_bytes=2 * len(PICTURE))):
        archive = zipped(tmp_path / "big.zip", {f"{k}.png": PICTURE for k in range(3)})
        with pytest.raises(TooLarge, match="too large"):
            unpack(archive, tmp_path / f"big{limits.file_bytes}", limits)
    with pytest.raises(TooLarge, match="3 pictures; at most 2"):
        unpack(archive, tmp_path / "many", ArchiveLimits(files=2))


def test_a_size_that_the_zip_lies_about_does_not_help(tmp_path: Path) -> None:
    """The directory says 10 bytes; what really comes out counts, or the checksum does not hold."""
    archive = zipped(tmp_path / "a.zip", {"a.bmp": bytes(50 << 20)})
    data = bytearray(archive.read_bytes())
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 10)
    archive.write_bytes(data)
    with pytest.raises((BadRequest, TooLarge)):
        unpack(archive, tmp_path / "out")


def test_a_list_of_too_many_entries_is_not_even_read(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", {"a.png": PICTURE})
    data = bytearray(archive.read_bytes())
    at = data.rfind(b"PK\x05\x06")
    data[at + 12 : at + 16] = struct.pack("<I", 1 << 30)
    archive.write_bytes(data)
    with pytest.raises(TooLarge, match="too many files"):
        unpack(archive, tmp_path / "out")


def no_zip(path: Path) -> None:
    path.write_bytes(PICTURE)


def cut_short(path: Path) -> None:
    zipped(path, {"a.png": PICTURE})
    path.write_bytes(path.read_bytes()[:-30])


def damaged(path: Path) -> None:
    zipped(path, {"a.png": PICTURE})
    data = bytearray(path.read_bytes())
    data[200:220] = bytes(20)
    path.write_bytes(data)


def without_pictures(path: Path) -> None:
    zipped(path, {"readme.txt": b"none"})


def packed_otherwise(path: Path) -> None:
    zipped(path, {"a.png": PICTURE}, zipfile.ZIP_LZMA)


def twice(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", PICTURE)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a.png", png(grey_picture()))


@pytest.mark.parametrize("make", [no_zip, cut_short, damaged, without_pictures, packed_otherwise, twice])
def test_what_is_no_sound_zip_of_pictures_is_said_so(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "a.zip")
    with pytest.raises(BadRequest, match="zip"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
