"""flawscribe samples"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.counting import count
from service.errors import BadRequest


def samples(
    kind: Annotated[str, typer.Argument(help="polka-dot, brushed-metal or blister-pack.")],
    directory: Annotated[Path, typer.Argument(help="Folder to make; must be empty or new.")],
    good: Annotated[int, typer.Option(min=1, help="Good parts each for train and test.")] = 30,
    flawed: Annotated[
        int | None, typer.Option(min=0, help="Parts of each flaw; unset: a fifth of the good ones, at least 2.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Another seed is another batch of the same product.")] = 0,
) -> None:
    """Make pictures of parts, good and flawed, with masks, in MVTec AD's layout.

    Example: flawscribe samples polka-dot /tmp/fabric --good 30 --seed 1
    """
    from service.samples import write_dataset  # noqa: PLC0415 - only this command needs it

    def progress(done: int, total: int) -> None:
        count(done, total, f"{done}/{total} pictures")

    try:
        write_dataset(kind, directory, good, seed, flawed, progress=progress)
    except ValueError as error:
        raise BadRequest(str(error)) from error
    except OSError as error:  # of a file of the unfinished set, whose name says nothing to who named the folder
        raise BadRequest(f"{directory} cannot be written: {error.strerror or error}") from error


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(samples)
