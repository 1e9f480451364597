"""flawscribe thresholds"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from service.bundle.manifest import FormName
from service.commands.recorded import recorded, written
from service.errors import BadRequest

if TYPE_CHECKING:
    from service.records.thresholds import Advice, Candidate, Rate


def thresholds(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[int | None, typer.Option(help="Its version; unset: the active one.")] = None,
    form: Annotated[
        FormName | None, typer.Option(help="The form whose scores were reviewed; unset: that of most inspections.")
    ] = None,
    most_escapes: Annotated[float, typer.Option(help="Share of flawed parts that may pass, 0..1.")] = 0.01,
    apply: Annotated[
        float | None, typer.Option(help="Write the model's next version with this reject threshold.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """What overkill and escapes would be at other thresholds, judged by people's reviews, with 95 % intervals.

    Example: flawscribe thresholds bracket --most-escapes 0.02
    """
    from service.bundle.recalibrate import with_threshold  # noqa: PLC0415 - the database is loaded only here
    from service.records.thresholds import advise, read_reviewed, suggest  # noqa: PLC0415

    if not 0 < most_escapes < 1:  # nor when it is no number
        raise BadRequest("--most-escapes must be above 0 and below 1")
    with recorded(name, version) as found:
        store, manifest, wanted = found.store, found.manifest, found.manifest.version
        form = found.form(form)
        reviewed = read_reviewed(found.database, name, wanted, form)
    present = manifest.forms[form].reject_threshold
    advice = advise(reviewed, (present,))
    if apply is not None:
        store.keep_choice(name)
        typer.echo(written(with_threshold(found.folder, form, apply, len(reviewed))))
        return
    best = suggest(advice, most_escapes)
    if as_json:
        told = {"model": name, "version": wanted, "form": form, "present": present, **asdict(advice)}
        typer.echo(json.dumps({**told, "suggested": None if best is None else asdict(best)}, indent=1))
        return
    typer.echo("\n".join(_table(advice, present, best, most_escapes)))


def _table(advice: Advice, present: float, best: Candidate | None, most_escapes: float) -> list[str]:
    lines = [f"{advice.good} good and {advice.flawed} flawed pictures were reviewed"]
    lines += [f"caution: {caution}" for caution in advice.cautions]
    lines.append(f"{'threshold':>10}  {'overkill':<24}{'escape':<24}")
    for each in advice.candidates:
        marks = ("  present" if each.threshold == present else "") + ("  suggested" if each == best else "")
        lines.append(f"{each.threshold:10.4f}  {_rate(each.overkill):<24}{_rate(each.escape):<24}{marks}".rstrip())
    if best is None:
        lines.append(f"the reviews cannot show that at most {most_escapes:.2%} would escape at any threshold")
    return lines


def _rate(rate: Rate) -> str:
    if rate.value is None:
        return "unknown"
    return f"{rate.value:6.1%} ({rate.low:.1%} to {rate.high:.1%})"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(thresholds)
