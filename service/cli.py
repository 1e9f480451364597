"""The command `flawscribe`. Each command has its own module in service/commands/."""

from __future__ import annotations

import sys

import typer

from service import __version__
from service.commands import (
    bench,
    check,
    evaluate,
    export,
    halve,
    key,
    recalibrate,
    report,
    samples,
    score,
    serve,
    teacher,
    thresholds,
    train,
)
from service.errors import FlawscribeError
from service.settings import require_known

app = typer.Typer(
    name="flawscribe",
    help="""Visual inspection: learn what good parts look like, then judge new ones over HTTP or from a folder.

    From pictures to verdicts:

        flawscribe train --data photos/good --name bracket

        flawscribe serve --model bracket

        curl -F image=@part.png http://localhost:8000/detect
    """,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for part in (
    serve,
    train,
    export,
    halve,
    evaluate,
    score,
    report,
    thresholds,
    recalibrate,
    check,
    samples,
    teacher,
    bench,
    key,
):
    part.register(app)


@app.callback()
def begin() -> None:
    """Before any command: no setting is mistyped, whether or not the command reads it."""
    require_known()


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit code 2."""
    try:
        app()
    except FlawscribeError as error:
        typer.echo(f"flawscribe: {error.detail}", err=True)
        sys.exit(2)
    except OSError as error:
        typer.echo(f"flawscribe: {_told(error)}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _told(error: OSError) -> str:
    """The file and what was wrong with it, on one line."""
    if not error.strerror:  # Pillow's own, which names the file in its words
        return " ".join(str(error).split()) or type(error).__name__
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
