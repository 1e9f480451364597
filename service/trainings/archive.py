"""A zip of pictures -> a folder. A zip is a stranger's: names, links, sizes and ratios are all checked, none is believed."""

from __future__ import annotations

import errno
import stat
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from service.errors import BadRequest, NotReady, TooLarge

PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
_CHUNK = 1 << 20
_LONGEST_NAME, _DEEPEST = 240, 12
_LARGEST_DIRECTORY = 32 << 20  # bytes of the list of entries
_FREE_OF_RATIO = 4 << 20  # a small flat picture may shrink as it likes
_PLAIN = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_REFUSED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, ValueError)


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive may unpack to: files, bytes in all and in one file, and bytes unpacked over bytes packed."""

    files: int = 50_000
    total_bytes: int = 32 << 30
    file_bytes: int = 1 << 30
    ratio: float = 100.0


@dataclass(frozen=True, slots=True)
class Unpacked:
    """How many pictures came out, and how many other files were left out."""

    pictures: int
    left_out: int


def unpack(archive: Path, folder: Path, limits: ArchiveLimits = ArchiveLimits()) -> Unpacked:
    """Unpack the pictures of a zip into `folder`, which is made. Other files and hidden ones are left out.

    Raises BadRequest for what is no sound zip of pictures (a name that leads out of the folder, a link, a password, no
    picture), TooLarge over a limit. What was unpacked until then is the caller's to remove.
    """
    try:
        if _directory_bytes(archive) > _LARGEST_DIRECTORY:
            raise TooLarge(f"the zip lists too many files; at most {limits.files} are taken")
        with zipfile.ZipFile(archive) as opened:
            entries = opened.infolist()
            wanted = [(entry, _target(entry)) for entry in entries if _is_picture(entry)]
            if not wanted:
                known = ", ".join(sorted(PICTURE_SUFFIXES))
                raise BadRequest(f"the zip holds no picture; read are: {known}")
            if len(wanted) > limits.files:
                raise TooLarge(f"the zip holds {len(wanted)} pictures; at most {limits.files} are taken")
            room = limits.total_bytes
            for entry, target in wanted:
                place = folder.joinpath(*target.parts)
                place.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(entry) as source, place.open("xb") as sink:
                    room -= _copy(source, sink, entry, limits, room)
            others = sum(not entry.is_dir() for entry in entries) - len(wanted)
            return Unpacked(len(wanted), others)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise BadRequest("the zip holds two files of one name, or a file named as a folder") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise BadRequest("the zip holds a file whose name is too long for this disk") from error
        raise NotReady(f"the trainings folder cannot take the pictures: {error.strerror}", retry_after=60) from error
    except _REFUSED as error:
        raise BadRequest(f"the zip cannot be read: {error}") from error


def _is_picture(entry: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(entry.filename)
    hidden = any(part.startswith((".", "__MACOSX")) and part != ".." for part in path.parts)
    return not entry.is_dir() and not hidden and path.suffix.lower() in PICTURE_SUFFIXES


def _target(entry: zipfile.ZipInfo) -> PurePosixPath:
    """Where an entry goes below the folder. Raises BadRequest for a name, kind or packing that is not taken."""
    name = entry.filename
    path = PurePosixPath(name)
    bad = path.is_absolute() or "\\" in name or ":" in name or ".." in path.parts or not name.isprintable()
    if bad or len(name) > _LONGEST_NAME or len(path.parts) > _DEEPEST:
        raise BadRequest(f"the zip holds a file named {name[:80]!r}: names must be short paths below its top folder")
    kind = entry.external_attr >> 16
    if kind and stat.S_IFMT(kind) not in (0, stat.S_IFREG):
        raise BadRequest(f"{name!r} in the zip is a link or a device, not a file")
    if entry.flag_bits & 1:
        raise BadRequest(f"{name!r} in the zip has a password; send it without")
    if entry.compress_type not in _PLAIN:
        raise BadRequest(f"{name!r} is packed in a way that is not read; use plain zip (deflate or store)")
    return path


def _copy(source: IO[bytes], sink: IO[bytes], entry: zipfile.ZipInfo, limits: ArchiveLimits, room: int) -> int:
    """Copy one file; its real size. Raises TooLarge as soon as it is over a limit, whatever the zip says of it."""
    most = min(limits.file_bytes, room)
    swollen = max(_FREE_OF_RATIO, int(entry.compress_size * limits.ratio))
    size = 0
    while chunk := source.read(_CHUNK):
        size += len(chunk)
        if size > most:
            raise TooLarge(
                f"{entry.filename!r} makes the zip too large: a picture may have {limits.file_bytes >> 20} MiB, all "
                f"together {limits.total_bytes >> 20} MiB"
            )
        if size > swollen:
            raise TooLarge(
                f"{entry.filename!r} unpacks to over {limits.ratio:g} times its packed size: no picture does"
            )
        sink.write(chunk)
    return size


def _directory_bytes(archive: Path) -> int:
    """Size of the zip's list of entries as it says itself, read before the list is. Raises BadRequest for no zip."""
    with archive.open("rb") as file:
        size = file.seek(0, 2)
        start = max(0, size - 65_557)  # the end record and its longest comment
        file.seek(start)
        tail = file.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or len(tail) < at + 22:
            raise BadRequest("the file is not a zip, or it is cut short")
        listed = int(struct.unpack_from("<I", tail, at + 12)[0])
        if tail[max(0, at - 20) : at][:4] != b"PK\x06\x07":
            return listed
        file.seek(int(struct.unpack_from("<Q", tail, at - 12)[0]))  # the large archives' own end record
        record = file.read(56)
        if record[:4] != b"PK\x06\x06":
            raise BadRequest("the zip's end is damaged")
        return int(struct.unpack_from("<Q", record, 40)[0])
