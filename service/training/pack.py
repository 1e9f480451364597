"""Pictures for pre-training in folders of a given size, so that they can be carried where only small pieces can."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from service.errors import BadRequest
from service.image.folder import pictures_below
from service.training.teacher_views import small_picture

_QUALITY = 95  # of JPEG, with all of the colour: grain is what a teacher learns from


def pack_pictures(folder: Path, out: Path, part_bytes: int) -> tuple[int, int]:
    """Write the pictures of `folder`, short side at most 288 px, to `out`/part00, part01, …, each of at most `part_bytes`, and
    return how many parts and pictures there are. Raises BadRequest for a folder without pictures, or an `out` with something in it.
    """
    if out.is_dir() and any(out.iterdir()):
        raise BadRequest(f"{out} is not an empty folder; empty it or name a new one")
    part, room = -1, 0
    files = pictures_below(folder)
    for index, path in enumerate(files):
        data = _jpeg(path)
        if part < 0 or len(data) > room:
            part, room = part + 1, part_bytes
            (out / f"part{part:02}").mkdir(parents=True)
        (out / f"part{part:02}" / f"{index:06}.jpg").write_bytes(data)
        room -= len(data)
    return part + 1, len(files)


def _jpeg(path: Path) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(small_picture(path)).save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()
