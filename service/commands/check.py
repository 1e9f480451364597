"""flawscribe check"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.bundle.store import EngineOptions, load_bundle
from service.bundle.verify import verify
from service.engine.session import OPENVINO_FORMS, has_openvino
from service.errors import BundleRefused, NotReady


def check(bundle: Annotated[Path, typer.Argument(help="A bundle's folder, models/NAME/VERSION.")]) -> None:
    """Verify a bundle from outside: manifest, checksums, networks, and golden pictures of every form.

    Example: flawscribe check models/polka-dot/1
    """
    manifest = verify(bundle).manifest
    typer.echo(f"{manifest.name} {manifest.version}: manifest, {len(manifest.files)} checksums and networks are sound")
    missed = []
    for name in manifest.forms:
        if name == "fp16":
            continue  # a GPU form; it is checked where it is loaded
        if name in OPENVINO_FORMS and not has_openvino():
            typer.echo(f"form {name}: not checked, OpenVINO is not installed (pip install 'flawscribe[openvino]')")
            continue
        try:
            loaded = load_bundle(bundle, EngineOptions(name, "openvino" if name in OPENVINO_FORMS else "cpu"))
            met, why = loaded.form_name == name, ""  # the log has said why it fell back to another
        except (BundleRefused, NotReady) as error:
            met, why = False, f": {error.detail}"
        typer.echo(f"form {name}: {'meets' if met else 'MISSES'} its golden pictures on this machine{why}")
        if not met:
            missed.append(name)
    if missed:
        raise BundleRefused(f"{bundle}: golden pictures are missed on this machine by {', '.join(missed)}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(check)
