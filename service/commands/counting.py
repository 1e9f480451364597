"""How far a command has come, for a person: one line that is written over on a screen, a few lines in a file."""

from __future__ import annotations

import sys

import typer


def count(done: int, total: int, line: str) -> None:
    """Show `line`, which tells of `done` of `total` steps; where nobody watches, once in a twentieth of the way."""
    if sys.stderr.isatty():
        typer.echo(f"\r{line}", nl=done == total, err=True)
    elif done * 20 // total > (done - 1) * 20 // total:
        typer.echo(line.rstrip(), err=True)
