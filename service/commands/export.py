"""flawscribe export"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.outputs import require_folder
from service.commands.recorded import keeps_choice, written
from service.commands.train import require_torch


def export(run: Annotated[Path, typer.Argument(help="A run's folder, runs/NAME.")]) -> None:
    """Make a bundle of the best checkpoint of a training that was stopped, without training on.

    Example: flawscribe export runs/bracket
    """
    require_torch()
    from service.training.build import build  # noqa: PLC0415 - torch is loaded only here
    from service.training.runs import remembered  # noqa: PLC0415 - torch is loaded only here
    from service.training.train import Trainer  # noqa: PLC0415

    settings = remembered(run)
    require_folder(settings.models_dir / settings.name)
    further = keeps_choice(settings.models_dir, settings.name)
    folder = build(settings, lambda text: typer.echo(text, err=True), obtain=Trainer.best_so_far)
    typer.echo(f"{folder} written; look at {folder}/report.html")
    if further:
        typer.echo(written(folder))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)
