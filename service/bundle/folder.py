"""A model's folder on disk: which version comes next, and a bundle that appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from service.bundle.manifest import Manifest
from service.bundle.verify import manifest_text, verify


def next_version(model_dir: Path) -> int:
    """One more than the highest version there; 1 in a folder that is new."""
    taken = [int(path.name) for path in model_dir.iterdir() if path.name.isdigit()] if model_dir.is_dir() else []
    return max(taken, default=0) + 1


def write_bundle(model_dir: Path, manifest: Manifest, files: dict[str, bytes]) -> Path:
    """Write a temporary folder beside, verify it, and rename it whole. Raises BundleRefused when it is not sound."""
    target = model_dir / str(manifest.version)
    temporary = model_dir / f".{manifest.version}.{os.getpid()}"
    try:
        for name, data in files.items():
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        (temporary / "manifest.json").write_text(manifest_text(manifest))
        verify(temporary)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target
