"""Ways to damage a bundle on purpose."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change manifest.json as a person with an editor would."""
    document = json.loads((folder / "manifest.json").read_text())
    change(document)
    (folder / "manifest.json").write_text(json.dumps(document))


def replace_file(folder: Path, name: str, data: bytes) -> None:
    """Put another file in the bundle, with its true sha256 in the manifest."""
    (folder / name).write_bytes(data)
    edit_manifest(folder, lambda document: document["files"].update({name: hashlib.sha256(data).hexdigest()}))


def edit_network(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    """Change model.onnx, honestly listed."""
    model = onnx.load_model_from_string((folder / "model.onnx").read_bytes())
    change(model)
    replace_file(folder, "model.onnx", bytes(model.SerializeToString()))
