"""flawscribe check"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.bundle.store import EngineOptions, load_bundle
from service.bundle.verify import verify
from service.engine.session import OPENVINO_FORMS, Provider, has_cuda, has_openvino
from service.errors import BundleRefused, NotReady


def check(bundle: Annotated[Path, typer.Argument(help="A bundle's folder, models/NAME/VERSION.")]) -> None:
    """Verify a bundle from outside: manifest, checksums, networks, and golden pictures of every form that can run here.

    Example: flawscribe check models/polka-dot/1
    """
    manifest = verify(bundle).manifest
    typer.echo(f"{manifest.name} {manifest.version}: manifest, {len(manifest.files)} checksums and networks are sound")
    missed = []
    for name in manifest.forms:
        provider: Provider = "cuda" if name == "fp16" else "openvino" if name in OPENVINO_FORMS else "cpu"
        if (missing := _missing(provider)) is not None:
            typer.echo(f"form {name}: not checked, {missing}")
            continue
        try:
            load_bundle(bundle, EngineOptions(name, provider))
            met, why = True, ""
        except (BundleRefused, NotReady) as error:
            if provider == "cuda" and isinstance(error, NotReady):  # a driver, without what ONNX Runtime needs of CUDA
                typer.echo(f"form {name}: not checked, {error.detail}")
                continue
            met, why = False, f": {error.detail}"
        typer.echo(f"form {name}: {'meets' if met else 'MISSES'} its golden pictures on this machine{why}")
        if not met:
            missed.append(name)
    if missed:
        raise BundleRefused(f"{bundle}: golden pictures are missed on this machine by {', '.join(missed)}")


def _missing(provider: Provider) -> str | None:
    """What a form of this provider lacks here; None where it can be tried."""
    if provider == "cuda" and not has_cuda():
        return "it is served by GPUs, and there is none here"
    if provider == "openvino" and not has_openvino():
        return "OpenVINO is not installed (pip install 'flawscribe[openvino]')"
    return None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(check)
