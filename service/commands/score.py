"""flawscribe score"""

from __future__ import annotations

import asyncio
import csv
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from service.bundle.store import Bundle, EngineOptions, Store, load_bundle
from service.decision.heatmap import overlay_png
from service.errors import BadRequest, FlawscribeError, UnreadableImage
from service.inspector import Inspector, Picture
from service.metrics import Metrics
from service.settings import load_settings
from service.types import Inspection

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
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


def score(
    folder: Annotated[Path, typer.Argument(help="A picture, or a folder of pictures.")],
    bundle: Annotated[Path | None, typer.Option(help="A bundle's folder; or use --model.")] = None,
    model: Annotated[str | None, typer.Option(help="A model of the models folder, its active version.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write; standard output when not given.")] = None,
    format: Annotated[str, typer.Option(help="csv or jsonl.")] = "csv",
    overlays: Annotated[Path | None, typer.Option(help="Folder for a PNG overlay of each picture.")] = None,
) -> None:
    """Judge a folder of pictures without a server.

    Example: flawscribe score photos/ --model polka-dot --format jsonl --overlays seen/
    """
    if format not in ("csv", "jsonl"):
        raise BadRequest(f"--format {format!r}; csv or jsonl")
    if not folder.exists():
        raise BadRequest(f"{folder} does not exist")
    files = [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES)
    if not files:
        raise BadRequest(f"no picture in {folder}")
    settings = load_settings()
    options = EngineOptions(settings.precision, settings.provider, settings.threads)
    if bundle is not None:
        loaded = load_bundle(bundle, options)
    else:
        store = Store(settings.models_dir, options)
        loaded = store.load(model or settings.model or "polka-dot")
    rows = _rows(files, folder, loaded, overlays, int(settings.max_megapixels * 1_000_000))
    with out.open("w", newline="") if out is not None else _Standard() as stream:
        _write(stream, rows, "csv" if format == "csv" else "jsonl")


class _Standard:
    def __enter__(self) -> Any:
        return sys.stdout

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()


def _write(stream: Any, rows: Iterator[dict[str, Any]], form: Literal["csv", "jsonl"]) -> None:
    if form == "jsonl":
        for row in rows:
            stream.write(json.dumps(row) + "\n")
        return
    writer = csv.DictWriter(stream, _COLUMNS, restval="")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "regions": json.dumps(row["regions"]), "reasons": "; ".join(row["reasons"])})


def _rows(
    files: list[Path], folder: Path, bundle: Bundle, overlays: Path | None, max_pixels: int
) -> Iterator[dict[str, Any]]:
    """A row a file, through the same path that serves."""
    inspector = Inspector(Metrics(1.0), queue_windows=4096, max_pixels=max_pixels)
    with asyncio.Runner() as runner:
        try:
            for file in files:
                name = file.name if file == folder else file.relative_to(folder).as_posix()
                try:
                    inspection = runner.run(_inspect(inspector, bundle, file))
                except FlawscribeError as error:
                    yield {"file": name, "regions": [], "reasons": [], "error": error.detail}
                    continue
                if overlays is not None:
                    _draw(overlays / f"{Path(name).with_suffix('')}.png", inspection)
                yield _row(name, inspection)
        finally:
            inspector.close()


async def _inspect(inspector: Inspector, bundle: Bundle, file: Path) -> Inspection:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"{file}: {error.strerror}") from error
    return await inspector.inspect(Picture(data), bundle, deadline=time.monotonic() + 3600)


def _draw(target: Path, inspection: Inspection) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(overlay_png(inspection.rgb, inspection.anomaly_map, inspection.verdict.thresholds))


def _row(name: str, inspection: Inspection) -> dict[str, Any]:
    verdict = inspection.verdict
    return {
        "file": name,
        "verdict": verdict.decision.value,
        "anomaly_score": round(verdict.score, 6),
        "threshold": round(verdict.thresholds.reject, 6),
        "review_threshold": round(verdict.thresholds.review, 6),
        "p_value": round(verdict.p_value, 6),
        "regions": [asdict(region) for region in verdict.regions],
        "reasons": list(verdict.reasons),
    }


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(score)
