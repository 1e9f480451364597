"""flawscribe recalibrate"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from service.bundle.manifest import FormName
from service.commands.recorded import Recorded, recorded, written
from service.errors import BadRequest, BundleRefused, NotReady
from service.settings import load_settings

if TYPE_CHECKING:
    from service.records.good_parts import GoodParts

_HINT = ", it judged too few good parts; --kept-pictures has it judge those of which pictures are kept"


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
    kept_pictures: Annotated[
        bool,
        typer.Option(
            "--kept-pictures", help="Score the parts' kept pictures by the forms that judged too few; takes their time."
        ),
    ] = False,
) -> None:
    """Write a model's next version with thresholds and p-values by good parts of production; nothing is trained.

    Good are the parts that were accepted or that people called good. The version waits until a person activates it.

    Example: flawscribe recalibrate bracket --from 2026-03-02 --to 2026-03-09
    """
    from service.bundle.recalibrate import recalibrated  # noqa: PLC0415 - the database is loaded only here
    from service.records.report.scope import moment_of  # noqa: PLC0415

    if false_reject_rate is not None and not 0 < false_reject_rate < 0.5:
        raise BadRequest("--false-reject-rate must be above 0 and below 0.5")
    first = moment_of("--from", since) if since else None
    last = moment_of("--to", until) if until else None
    with recorded(name, version) as found:
        wanted = (found.form(form),) if form is not None else tuple(found.manifest.forms)
        judged = _judged(found, first, last)
        few = _too_few(wanted, judged)
        seen = {each: judged[each] for each in wanted if each not in few}
        busiest = max(judged, key=lambda each: judged[each].count)
        again = few if kept_pictures and busiest not in _too_few((busiest,), judged) else ()
        used = {*seen, busiest} if again else seen
        unjudged = sum(judged[each].open for each in used)
        if unjudged and not open_are_flawed:
            raise BadRequest(
                f"{unjudged} flagged pictures have no review: without the good ones among them the thresholds would come out too "
                "low; review them, choose another span, or say --open-are-flawed"
            )
        for each in again:
            if (parts := _rescored(found, each, judged[busiest])) is not None:
                seen[each] = parts
        if not seen:
            raise BadRequest(_none_of(found, wanted))
        found.store.keep_choice(name)
        folder = recalibrated(found.folder, seen, false_reject_rate)
        after = found.store.manifest(name, int(folder.name)).forms
        for each in found.manifest.forms:
            if each not in seen:
                hint = _HINT if each in few and not kept_pictures else ""
                typer.echo(f"{each}: as before{hint}")
                continue
            rule = after[each].reject_rule
            typer.echo(
                f"{each}: reject {found.manifest.forms[each].reject_threshold:.4f} -> {after[each].reject_threshold:.4f}, "
                f"review {found.manifest.forms[each].review_threshold:.4f} -> {after[each].review_threshold:.4f} "
                f"({rule.method}, {rule.parts} parts, {seen[each].reviewed} pictures called good)"
            )
            typer.echo(_escapes(found, each, after[each].reject_threshold))
    typer.echo(written(folder))


def _too_few(forms: Sequence[FormName], judged: Mapping[FormName, GoodParts]) -> list[FormName]:
    """Those of `forms` that judged too few good parts to be recalibrated by them."""
    from service.bundle.recalibrate import LEAST_PARTS  # noqa: PLC0415 - see above

    return [each for each in forms if judged[each].count < LEAST_PARTS]


def _none_of(found: Recorded, forms: Sequence[FormName]) -> str:
    from service.bundle.recalibrate import LEAST_PARTS  # noqa: PLC0415 - see above

    manifest = found.manifest
    return (
        f"of {manifest.name} {manifest.version}, no form of {', '.join(forms)} has {LEAST_PARTS} good parts on record"
    )


def _judged(found: Recorded, since: datetime | None, until: datetime | None) -> dict[FormName, GoodParts]:
    """The good parts that each form has judged."""
    from service.records.good_parts import read_good_parts  # noqa: PLC0415 - see above

    manifest = found.manifest
    return {
        name: read_good_parts(
            found.database,
            manifest.name,
            manifest.version,
            name,
            review_threshold=form.review_threshold,
            since=since,
            until=until,
        )
        for name, form in manifest.forms.items()
    }


def _rescored(found: Recorded, form: FormName, good: GoodParts) -> GoodParts | None:
    """The good parts by a form that has not judged them, or None with the reason told."""
    from service.bundle.recalibrate import LEAST_PARTS, rescored  # noqa: PLC0415 - see above
    from service.records.pictures import Pictures  # noqa: PLC0415

    settings = load_settings()
    kept = Pictures(settings.records_dir / "pictures")
    try:
        parts = rescored(found.folder, form, good, kept.get, int(settings.max_megapixels * 1_000_000))
    except (BundleRefused, NotReady) as error:
        typer.echo(f"{form}: {error.detail}")
        return None
    if parts.count < LEAST_PARTS:
        typer.echo(f"{form}: of {parts.count} of the parts all pictures are kept; {LEAST_PARTS} are the least")
        return None
    return parts


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
