"""The command `flawscribe`. Each command has its own module in service/commands/."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import typer

from service import __version__
from service.errors import FlawscribeError
from service.settings import require_known

COMMANDS = (
    "serve",
    "train",
    "export",
    "halve",
    "evaluate",
    "score",
    "report",
    "thresholds",
    "recalibrate",
    "check",
    "samples",
    "teacher",
    "bench",
    "key",
)


HELP = """Visual inspection: learn what good parts look like, then judge new ones over HTTP or from a folder.

From pictures to verdicts:

    flawscribe train --data photos/good --name bracket

    flawscribe serve --model bracket

    curl -F image=@part.png http://localhost:8000/detect
"""


def command_line(arguments: Sequence[str] = ()) -> typer.Typer:
    """The command line with the command that the arguments begin with, else with all of them: each loads what it works with,
    so that `key list` need not wait for what `serve` needs."""
    app = typer.Typer(
        name="flawscribe", help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
    )
    app.callback()(begin)
    app.command()(version)
    asked = arguments[0] if arguments else None
    if asked == version.__name__:
        return app
    for name in (asked,) if asked in COMMANDS else COMMANDS:
        import_module(f"service.commands.{name}").register(app)
    return app


def begin() -> None:
    """Before any command: no setting is mistyped, whether or not the command reads it."""
    require_known()


def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line; an expected error is one line on stderr and exit code 2."""
    try:
        command_line(sys.argv[1:])()
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
