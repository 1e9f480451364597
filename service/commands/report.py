"""flawscribe report"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from service.captions.answer import LlmUnavailable
from service.commands.outputs import writable
from service.commands.recorded import require_records
from service.errors import BadRequest
from service.records.report.data import Format
from service.records.report.scope import read_scope
from service.settings import Settings, load_settings

if TYPE_CHECKING:
    from service.captions.guard import GuardedLlm
    from service.records.store import Records


def report(
    since: Annotated[
        str | None, typer.Option("--from", help="ISO 8601, UTC by default; unset: 24 hours before TO.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="ISO 8601, not part of the span; unset: now.")] = None,
    product: Annotated[str | None, typer.Option(help="One product; unset: all.")] = None,
    lot: Annotated[str | None, typer.Option(help="One lot; unset: all.")] = None,
    summary: Annotated[
        bool,
        typer.Option("--summary", help="Let the LLM sum the figures up (they are sent to it); html, json and pdf."),
    ] = False,
    format: Annotated[
        Format | None, typer.Option(help="html, json, csv or pdf; unset: by the ending of OUT, else html.")
    ] = None,
    out: Annotated[Path | None, typer.Option(callback=writable, help="File to write; unset: standard output.")] = None,
) -> None:
    """Report on recorded inspections: yield, flaws by type, control chart, score trend, causes and actions.

    Example: flawscribe report --from 2026-03-09 --product polka-dot --out report.html
    """
    from service.records.report.gather import gather  # noqa: PLC0415 - the database is loaded only here
    from service.records.report.render import render  # noqa: PLC0415
    from service.records.report.table import facts_json  # noqa: PLC0415
    from service.records.store import Records, RecordsOptions  # noqa: PLC0415

    form = _format(format, out)
    scope = read_scope(since, until, now=datetime.now(UTC), product=product, lot=lot)
    settings = load_settings()
    llm = _require_llm(settings, form) if summary else None
    require_records(settings)
    records = Records(RecordsOptions(settings.records_dir, settings.database_url))
    try:
        data = gather(records.database, scope)
        words = None if llm is None else _summed_up(llm, facts_json(data), records)
    finally:
        records.close()
    document = render(data, form, records.pictures.get, words)
    if out is None:
        sys.stdout.buffer.write(document.content)
        return
    out.write_bytes(document.content)


def _format(asked: Format | None, out: Path | None) -> Format:
    """The format asked for, else the one that the file's ending names. Raises BadRequest where the two differ."""
    ending = "" if out is None else out.suffix.lower().removeprefix(".")
    named: Format | None = next((known for known in get_args(Format) if known == ending), None)
    if asked and named and asked != named:
        raise BadRequest(f"--format {asked} and --out {out}, which is named as {named}: give one of them another form")
    return asked or named or "html"


def _require_llm(settings: Settings, format: Format) -> GuardedLlm:
    """Raises BadRequest where none is set up, or the report has no place for its words."""
    from service.captions.guard import open_llm  # noqa: PLC0415 - its library takes a second to import

    if format == "csv":
        raise BadRequest("--summary: csv has no place for it; take html, json or pdf")
    llm = open_llm(settings)
    if llm is None:
        raise BadRequest("--summary needs an LLM: FLAWSCRIBE_LLM_BASE_URL and FLAWSCRIBE_LLM_MODEL")
    return llm


def _summed_up(llm: GuardedLlm, facts: str, records: Records) -> str | None:
    """The facts in the LLM's words, within the day's limits that the services on these records share; None, and why on
    stderr, where it does not answer: a report is whole without."""

    async def ask() -> str | None:
        try:
            return (await llm.summarise(facts)).text
        except LlmUnavailable as failure:
            typer.echo(f"the report has no summary: {failure}", err=True)
            return None
        finally:
            await llm.close()

    llm.budget.keep_in(records)
    return asyncio.run(ask())


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(report)
