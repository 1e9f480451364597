"""Folders of pictures: which files are pictures, and whose they are."""

from __future__ import annotations

from pathlib import Path, PurePath

from service.errors import BadRequest

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
_SYSTEM = ("@eaDir", "__MACOSX")  # thumbnails and the like that storage and archivers put beside pictures


def is_picture(path: PurePath) -> bool:
    """By its ending, and by no part of its path being hidden or an operating system's own. `path`: below the folder meant."""
    own = not any(part.startswith(".") or part in _SYSTEM for part in path.parts)
    return own and path.suffix.lower() in SUFFIXES


def pictures_below(folder: Path) -> list[Path]:
    """The pictures in `folder` and its subfolders, sorted. Raises BadRequest when there is none."""
    files = sorted(path for path in folder.rglob("*") if is_picture(path.relative_to(folder)) and path.is_file())
    if not files:
        raise BadRequest(f"no picture in {folder}; read are: {', '.join(sorted(SUFFIXES))}")
    return files
