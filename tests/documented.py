"""`python -m tests.documented train|serve …`: what the commands of documents run in place of the real ones, which would
take minutes or never end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import typer

from service.cli import command_line
from service.settings import load_settings
from tests.networks import write_bundle


def train(arguments: list[str]) -> None:
    """Read the options as `flawscribe train` does, and write the next version of a small model that was made by hand."""
    command = typer.main.get_command(command_line()).commands["train"]  # type: ignore[attr-defined]
    options = command.make_context("train", list(arguments)).params
    if not options["data"].is_dir():
        sys.exit(f"{options['data']} is not a folder")
    models_dir = options["models_dir"] or load_settings().models_dir
    versions = [int(each.name) for each in (models_dir / options["name"]).glob("[0-9]*")]
    folder = write_bundle(Path(models_dir), options["name"], max(versions, default=0) + 1)
    print(f"{folder} written")


def serve(arguments: list[str]) -> None:
    """Start the service on a free port, wait until it says where it is ready, and stop it."""
    command = [sys.executable, "-m", "service", "serve", *arguments, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        process.terminate()
    if "flawscribe ready on" not in said or process.returncode != 0:
        sys.exit(f"not served: {said!r}, exit code {process.returncode}")


if __name__ == "__main__":
    {"train": train, "serve": serve}[sys.argv[1]](sys.argv[2:])
