"""flawscribe halve"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.bundle.store import EngineOptions, Store
from service.bundle.verify import read_manifest
from service.commands.counting import count
from service.commands.outputs import require_folder
from service.commands.recorded import written
from service.commands.train import require_torch
from service.errors import BadRequest


def halve(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, models/NAME/VERSION.")],
    data: Annotated[
        Path | None,
        typer.Option(help="The folder that it was trained on: the parts that were held out set thresholds."),
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="Instead: a folder of good parts that it did not learn from, 10 or more.")
    ] = None,
    group_by: Annotated[
        str | None, typer.Option(help="With --held-out: regular expression that names the part in a file's path.")
    ] = None,
    models_dir: Annotated[Path | None, typer.Option(help="Folder of bundles to write to; unset: its own.")] = None,
) -> None:
    """Give a model that was trained without a GPU the form that GPUs serve best, as its next version; nothing is trained.

    Example: flawscribe halve models/bracket/1 --data photos/good
    """
    if (data is None) == (held_out is None):
        raise BadRequest("give either --data, the folder it was trained on, or --held-out, other good parts")
    require_torch()
    from service.training.data import split_folder  # noqa: PLC0415 - torch is loaded only here
    from service.training.fp16 import held_out_of, with_fp16  # noqa: PLC0415 - torch is loaded only here

    if models_dir is not None:
        require_folder(models_dir)
    images = held_out_of(bundle, data) if data is not None else split_folder(held_out or bundle, group_by).images
    Store(models_dir or bundle.resolve().parent.parent, EngineOptions()).keep_choice(read_manifest(bundle).name)
    folder = with_fp16(
        bundle, images, models_dir, lambda done: count(done, len(images), f"{done}/{len(images)} pictures")
    )
    typer.echo(written(folder))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(halve)
