"""flawscribe check"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.bundle.store import EngineOptions, load_bundle
from service.bundle.verify import verify
from service.engine.session import OPENVINO_FORMS, has_openvino


def check(bundle: Annotated[Path, typer.Argument(help="A bundle's folder, models/NAME/VERSION.")]) -> None:
    """Verify a bundle from outside: manifest, checksums, networks, and golden pictures of every form.

    Example: flawscribe check models/polka-dot/1
    """
    manifest = verify(bundle).manifest
    typer.echo(f"{manifest.name} {manifest.version}: manifest, {len(manifest.files)} checksums and networks are sound")
    for name in manifest.forms:
        if name == "fp16":
            continue  # a GPU form; it is checked where it is loaded
        if name in OPENVINO_FORMS and not has_openvino():
            typer.echo(f"form {name}: not checked, OpenVINO is not installed (pip install 'flawscribe[openvino]')")
            continue
        loaded = load_bundle(bundle, EngineOptions(name, "openvino" if name in OPENVINO_FORMS else "cpu"))
        met = "meets" if loaded.form_name == name else "MISSES"
        typer.echo(f"form {name}: {met} its golden pictures on this machine")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(check)
