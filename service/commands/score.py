"""flawscribe score"""

from __future__ import annotations

import asyncio
import csv
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import typer

from service.bundle.store import Bundle, EngineOptions, Store, load_bundle
from service.commands.outputs import require_file, require_folder
from service.decision.heatmap import draw_overlay
from service.errors import BadRequest, FlawscribeError, UnreadableImage
from service.image.folder import pictures_below
from service.inspector import Inspector, Picture
from service.metrics import Metrics
from service.records.report.table import guarded
from service.settings import Settings, load_settings
from service.types import Inspection

Format = Literal["csv", "jsonl"]
Row = dict[str, Any]
_COLUMNS = (
    "file",
    "verdict",
    "anomaly_score",
    "threshold",
    "review_threshold",
    "p_value",
    "regions",
    "reasons",
    "error",
)
_LONGEST_S = 3600.0  # of one picture: nobody waits for an answer here


def score(
    folder: Annotated[
        Path, typer.Argument(help="A folder of pictures, looked through with its subfolders, or one picture.")
    ],
    bundle: Annotated[Path | None, typer.Option(help="A bundle's folder; or use --model.")] = None,
    model: Annotated[str | None, typer.Option(help="A model of the models folder, its active version.")] = None,
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for scores.csv or scores.jsonl; else standard output.")
    ] = None,
    format: Annotated[Format, typer.Option(help="csv or jsonl.")] = "csv",
    overlays: Annotated[
        bool, typer.Option("--overlays", help="Draw an overlay of each picture, in OUT/overlays.")
    ] = False,
) -> None:
    """Judge a folder of pictures without a server. A picture that cannot be read has its error in its row; when none could
    be judged, the exit code is 1.

    Example: flawscribe score photos/ --model polka-dot --out scored/ --overlays
    """
    files = find_pictures(folder)
    if overlays and out is None:
        raise BadRequest("--overlays needs --out")
    if out is not None:
        require_file(out / f"scores.{format}", makes_folder=True)
        if overlays:
            if folder.resolve() in (out / "overlays").resolve().parents:
                raise BadRequest(
                    f"{out} lies in {folder}: its overlays would be taken for pictures the next time; take another --out"
                )
            require_folder(out / "overlays")
    settings = load_settings()
    judging = _judge(files, _load(bundle, model, settings), settings)
    names = {file: _printable(file.name if file == folder else file.relative_to(folder).as_posix()) for file in files}
    judged = 0

    def rows() -> Iterator[Row]:
        nonlocal judged
        for file, outcome in judging:
            judged += isinstance(outcome, Inspection)
            yield _row(names[file], outcome)

    if out is None:
        _WRITERS[format](sys.stdout, rows())
    else:
        out.mkdir(parents=True, exist_ok=True)
        if overlays:
            judging = _drawing(judging, lambda file: out / "overlays" / f"{names[file]}.png")
        with (out / f"scores.{format}").open("w", newline="") as stream:
            _WRITERS[format](stream, rows())
    if not judged:
        typer.echo(f"flawscribe: none of {len(files)} pictures could be judged", err=True)
        raise typer.Exit(1)


def _printable(name: str) -> str:
    """The name, what is no UTF-8 in it spelled out: tables are UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def find_pictures(folder: Path) -> list[Path]:
    """The pictures in `folder` and below, sorted, or the one file. Raises BadRequest when there is none."""
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise BadRequest(f"{folder} does not exist")
    return pictures_below(folder)


def _load(bundle: Path | None, model: str | None, settings: Settings) -> Bundle:
    options = EngineOptions.of(settings)
    if bundle is not None and model is not None:
        raise BadRequest("give --bundle or --model, not both")
    if bundle is not None:
        return load_bundle(bundle, options)
    store = Store(settings.models_dir, options)
    names = store.names()
    if not names:
        raise BadRequest(
            f"no model in {settings.models_dir}: set FLAWSCRIBE_MODELS_DIR, or name a bundle with --bundle"
        )
    return store.load(model or settings.model or (names[0] if len(names) == 1 else "polka-dot"))


Judging = Iterator[tuple[Path, Inspection | FlawscribeError]]


def _judge(files: list[Path], bundle: Bundle, settings: Settings) -> Judging:
    """Each file's inspection or its error, through the same path that serves."""
    inspector = Inspector(
        Metrics(1.0),
        queue_windows=100_000,  # one picture at a time: nothing is turned away
        max_pixels=int(settings.max_megapixels * 1_000_000),
        decode_threads=settings.decode_threads,
    )
    with asyncio.Runner() as runner:
        try:
            for file in files:
                try:
                    yield file, runner.run(_inspect(inspector, bundle, file))
                except FlawscribeError as error:
                    yield file, error
        finally:
            inspector.close()


async def _inspect(inspector: Inspector, bundle: Bundle, file: Path) -> Inspection:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{file}: {error.strerror}") from error
    return await inspector.inspect(Picture(data), bundle, deadline=time.monotonic() + _LONGEST_S)


def _drawing(judging: Judging, place: Callable[[Path], Path]) -> Judging:
    """The same, with an overlay written for each picture that was judged."""
    for file, outcome in judging:
        if isinstance(outcome, Inspection):
            place(file).parent.mkdir(parents=True, exist_ok=True)
            place(file).write_bytes(draw_overlay(outcome))
        yield file, outcome


def _row(name: str, outcome: Inspection | FlawscribeError) -> Row:
    if isinstance(outcome, FlawscribeError):
        return {"file": name, "regions": None, "reasons": None, "error": outcome.detail}
    verdict = outcome.verdict
    return {
        "file": name,
        "verdict": verdict.decision.value,
        "anomaly_score": verdict.score if math.isfinite(verdict.score) else None,
        "threshold": verdict.thresholds.reject,
        "review_threshold": verdict.thresholds.review,
        "p_value": verdict.p_value,
        "regions": [asdict(region) for region in verdict.regions],
        "reasons": list(verdict.reasons),
    }


def _write_csv(stream: IO[str], rows: Iterator[Row]) -> None:
    writer = csv.DictWriter(stream, _COLUMNS, restval="")
    writer.writeheader()
    for row in rows:
        regions = "" if row["regions"] is None else json.dumps(row["regions"])
        cells = {**row, "regions": regions, "reasons": "; ".join(row["reasons"] or ())}
        writer.writerow({name: guarded(cell) if isinstance(cell, str) else cell for name, cell in cells.items()})


def _write_jsonl(stream: IO[str], rows: Iterator[Row]) -> None:
    for row in rows:
        stream.write(json.dumps(row, allow_nan=False) + "\n")


_WRITERS: dict[Format, Callable[[IO[str], Iterator[Row]], None]] = {"csv": _write_csv, "jsonl": _write_jsonl}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(score)
