"""Where a command is going to write, tried before its work, which may take minutes, and not after it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from service.errors import BadRequest


def require_file(file: Path, *, makes_folder: bool = False) -> None:
    """Raises BadRequest when `file` cannot be written; a file that is there stays as it is, and none is left behind.

    `makes_folder`: whether the command makes the folder of the file when it is missing.
    """
    try:
        if file.is_file() or file.is_dir():
            file.open("ab").close()
        elif not file.exists():  # else a device or a pipe, whose reader would take the closing for the end
            place = Path(os.path.realpath(file))
            if place.parent.is_dir():
                place.open("xb").close()
                place.unlink()
            elif makes_folder:
                require_folder(file.parent)
            else:
                raise BadRequest(f"{file} cannot be written: there is no folder {file.absolute().parent}")
    except OSError as error:
        raise BadRequest(f"{file} cannot be written: {error.strerror}") from error


def require_folder(folder: Path) -> None:
    """Raises BadRequest when nothing can be written in `folder`, nor it be made; makes nothing that stays."""
    place = Path(os.path.realpath(folder))
    try:
        while not place.exists():
            place = place.parent
        with tempfile.TemporaryDirectory(prefix=".tried-", dir=place):
            pass
    except OSError as error:
        raise BadRequest(f"{folder} cannot be written: {error.strerror}") from error


def writable(value: Path | None) -> Path | None:
    """Callback of an option that names a file to write. Raises BadRequest as `require_file` does."""
    if value is not None:
        require_file(value)
    return value


def writable_in_new_folder(value: Path | None) -> Path | None:
    """The same for a file whose folder the command makes when it is missing."""
    if value is not None:
        require_file(value, makes_folder=True)
    return value
