"""flawscribe evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.bundle.store import EngineOptions, load_bundle
from service.commands.counting import count
from service.commands.outputs import writable
from service.settings import load_settings


def evaluate(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, models/NAME/VERSION.")],
    dataset: Annotated[
        Path, typer.Argument(help="Test set in MVTec AD's layout: test/good, test/<defect>, ground_truth.")
    ],
    json_file: Annotated[Path | None, typer.Option("--json", callback=writable, help="Write the figures here.")] = None,
    html_file: Annotated[
        Path | None, typer.Option("--html", callback=writable, help="Write a page with the worst mistakes here.")
    ] = None,
) -> None:
    """Measure a bundle on labelled pictures: AUROC, AU-PRO, overkill and escape at its own threshold, and how many pictures
    its quality gate would not have judged.

    Example: flawscribe evaluate models/polka-dot/1 /tmp/fabric --html fabric.html
    """
    from service.training import evaluate as figures  # noqa: PLC0415 - needs no torch, but only this command needs it

    settings = load_settings()
    options = EngineOptions.of(settings)
    loaded = load_bundle(bundle, options)
    images = figures.find_test_images(dataset)
    scored = figures.score_all(loaded, images, lambda done, total: count(done, total, f"{done}/{total} pictures"))
    result = figures.evaluate(loaded, scored)
    text = figures.to_json(result)
    if json_file is not None:
        json_file.write_text(text)
    if html_file is not None:
        html_file.write_text(figures.to_html(result, loaded, scored))
    for line in figures.to_text(scored):
        typer.echo(line, err=True)
    typer.echo(text, nl=False)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(evaluate)
