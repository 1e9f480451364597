"""flawscribe recalibrate"""

from __future__ import annotations

from typing import Annotated

import typer

from service.bundle.manifest import FormName
from service.commands.recorded import Recorded, recorded, written
from service.errors import BadRequest


def recalibrate(
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    version: Annotated[int | None, typer.Option(help="Its version; unset: the active one.")] = None,
    form: Annotated[
        FormName | None, typer.Option(help="The form to recalibrate; unset: each that has judged enough good parts.")
    ] = None,
    since: Annotated[str | None, typer.Option("--from", help="Parts inspected from then on: ISO 8601.")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Parts inspected before: ISO 8601.")] = None,
    false_reject_rate: Annotated[
        float | None, typer.Option(help="Share of good parts that may be rejected, 0..0.5; unset: as it was.")
    ] = None,
    open_are_flawed: Annotated[
        bool, typer.Option("--open-are-flawed", help="Take flagged pictures that nobody has reviewed for flawed.")
    ] = False,
) -> None:
    """Write a model's next version with thresholds and p-values by good parts of production; nothing is trained.

    Good are the parts that were accepted or that people called good. The version waits until a person activates it.

    Example: flawscribe recalibrate bracket --from 2026-03-02 --to 2026-03-09
    """
    from service.bundle.recalibrate import LEAST_PARTS, recalibrated  # noqa: PLC0415 - the database is loaded only here
    from service.records.good_parts import GoodParts, read_good_parts  # noqa: PLC0415
    from service.records.report.scope import moment_of  # noqa: PLC0415

    if false_reject_rate is not None and not 0 < false_reject_rate < 0.5:
        raise BadRequest("--false-reject-rate must be above 0 and below 0.5")
    first = moment_of("--from", since) if since else None
    last = moment_of("--to", until) if until else None
    with recorded(name, version) as found:
        wanted = (found.form(form),) if form is not None else tuple(found.manifest.forms)
        seen: dict[FormName, GoodParts] = {}
        for each in wanted:
            threshold = found.manifest.forms[each].review_threshold
            good = read_good_parts(
                found.database,
                name,
                found.manifest.version,
                each,
                review_threshold=threshold,
                since=first,
                until=last,
            )
            if form is not None or len(set(good.parts)) >= LEAST_PARTS:
                seen[each] = good
        if not seen:
            raise BadRequest(
                f"no form of {name} {found.manifest.version} has judged {LEAST_PARTS} good parts on record"
            )
        unjudged = sum(good.open for good in seen.values())
        if unjudged and not open_are_flawed:
            raise BadRequest(
                f"{unjudged} flagged pictures have no review: without the good ones among them the thresholds would come out too "
                "low; review them, choose another span, or say --open-are-flawed"
            )
        found.store.keep_choice(name)
        folder = recalibrated(found.folder, seen, false_reject_rate)
        after = found.store.manifest(name, int(folder.name)).forms
        for each in found.manifest.forms:
            if each not in seen:
                typer.echo(f"{each}: as before, too few good parts on record")
                continue
            rule = after[each].reject_rule
            typer.echo(
                f"{each}: reject {found.manifest.forms[each].reject_threshold:.4f} -> {after[each].reject_threshold:.4f}, "
                f"review {found.manifest.forms[each].review_threshold:.4f} -> {after[each].review_threshold:.4f} "
                f"({rule.method}, {rule.parts} parts, {seen[each].reviewed} pictures called good)"
            )
            typer.echo(_escapes(found, each, after[each].reject_threshold))
    typer.echo(written(folder))


def _escapes(found: Recorded, form: FormName, threshold: float) -> str:
    """What the reviews say of flaws at the new threshold."""
    from service.records.thresholds import advise, read_reviewed  # noqa: PLC0415 - see above

    reviewed = read_reviewed(found.database, found.manifest.name, found.manifest.version, form)
    (rate,) = (each.escape for each in advise(reviewed, (threshold,)).candidates if each.threshold == threshold)
    if rate.value is None:
        return "  no flawed picture was reviewed: how many would pass is unknown"
    interval = f"95 %: {rate.low:.1%} to {rate.high:.1%}"
    return f"  {rate.count} of {rate.total} reviewed flawed pictures would not be rejected ({interval})"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(recalibrate)
