"""A model's folder on disk: which version comes next, and a bundle that appears whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from pathlib import Path

from service.bundle.manifest import Manifest
from service.bundle.verify import manifest_text, verify


def next_version(model_dir: Path) -> int:
    """One more than the highest version there; 1 in a folder that is new."""
    taken = [int(path.name) for path in model_dir.iterdir() if path.name.isdecimal()] if model_dir.is_dir() else []
    return max(taken, default=0) + 1


def write_bundle(model_dir: Path, manifest: Manifest, files: dict[str, bytes]) -> Path:
    """Write a temporary folder beside, verify it, and rename it whole; where it is. Raises BundleRefused when it is not sound.

    When another has meanwhile taken the manifest's version, it becomes the next one that is free.
    """
    # others may write the same version, in this process or, of the same pid, in another container; a killed training's
    # leftovers are found by the pid at the end
    temporary = model_dir / f".{manifest.version}.{secrets.token_hex(4)}.{os.getpid()}"
    try:
        for name, data in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (temporary / "manifest.json").write_text(manifest_text(manifest))
        verify(temporary)
        while not _renamed(temporary, model_dir / str(manifest.version)):
            manifest = manifest.model_copy(update={"version": next_version(model_dir)})
            (temporary / "manifest.json").write_text(manifest_text(manifest))
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return model_dir / str(manifest.version)


def _renamed(folder: Path, target: Path) -> bool:
    """Rename a folder, unless another one that holds something is there."""
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    return True
