"""flawscribe report"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from service.commands.outputs import writable
from service.commands.recorded import require_records
from service.records.report.data import Format
from service.records.report.scope import read_scope
from service.settings import load_settings


def report(
    since: Annotated[
        str | None, typer.Option("--from", help="ISO 8601, UTC by default; unset: 24 hours before TO.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="ISO 8601, not part of the span; unset: now.")] = None,
    product: Annotated[str | None, typer.Option(help="One product; unset: all.")] = None,
    lot: Annotated[str | None, typer.Option(help="One lot; unset: all.")] = None,
    format: Annotated[Format, typer.Option(help="html, json, csv or pdf.")] = "html",
    out: Annotated[Path | None, typer.Option(callback=writable, help="File to write; unset: standard output.")] = None,
) -> None:
    """Report on recorded inspections: yield, flaws by type, control chart, score trend, causes and actions.

    Example: flawscribe report --from 2026-03-09 --product polka-dot --out report.html
    """
    from service.records.database import open_database  # noqa: PLC0415 - the database is loaded only here
    from service.records.pictures import Pictures  # noqa: PLC0415
    from service.records.report.gather import gather  # noqa: PLC0415
    from service.records.report.render import render  # noqa: PLC0415

    scope = read_scope(since, until, now=datetime.now(UTC), product=product, lot=lot)
    settings = load_settings()
    require_records(settings)
    database = open_database(settings.records_dir, settings.database_url)
    try:
        data = gather(database, scope)
    finally:
        database.close()
    document = render(data, format, Pictures(settings.records_dir / "pictures").get)
    if out is None:
        sys.stdout.buffer.write(document.content)
        return
    out.write_bytes(document.content)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(report)
