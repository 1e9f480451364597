"""flawscribe teacher import | pretrain | list"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.train import require_torch

teachers = typer.Typer(help="Teachers: the pretrained networks whose features a model learns.", no_args_is_help=True)
_DIRECTORY = Path("models/teachers")


@teachers.command("import")
def take(
    file: Annotated[Path, typer.Argument(help="teacher_small.pth, teacher_medium.pth or pretrained_teacher_*.pth.")],
    name: Annotated[str, typer.Option(help="Name to train with: --teacher NAME.")],
    directory: Annotated[Path, typer.Option(help="Folder of teachers.")] = _DIRECTORY,
) -> None:
    """Take published weights of nelson1425/EfficientAD or anomalib. Example:

    flawscribe teacher import teacher_medium.pth --name imagenet-medium
    """
    require_torch()
    from service.training.teacher import import_teacher  # noqa: PLC0415

    typer.echo(f"{import_teacher(file, name, directory)} written")


@teachers.command("list")
def list_all(directory: Annotated[Path, typer.Option(help="Folder of teachers.")] = _DIRECTORY) -> None:
    """List the teachers at hand."""
    for file in sorted(directory.glob("*.safetensors")):
        typer.echo(file.stem)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(teachers, name="teacher")
