"""flawscribe train"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.background import NICEST, step_behind
from service.bundle.manifest import AUTO, NAME_PATTERN
from service.commands.counting import count
from service.commands.outputs import require_folder, writable_in_new_folder
from service.commands.recorded import keeps_choice, written
from service.errors import BadRequest, FlawscribeError
from service.settings import load_settings
from service.trainings.order import RESERVED
from service.trainings.progress import ProgressFile, TimeLeft
from service.types import LayoutChoice, LightingChoice, Thresholds

if TYPE_CHECKING:
    from service.training.runs import BuildSettings
    from service.training.select import Sample


def require_torch() -> None:
    """Raises BadRequest when the training extra is not installed."""
    if find_spec("torch") is None:
        raise BadRequest("training needs PyTorch: `make dev` in the checkout, or pip install 'flawscribe[train]'")


def _above_zero(param: typer.CallbackParam, value: float | None) -> float | None:
    """Callback of an option for a length or a scale. Raises BadRequest unless it is above 0 and finite."""
    if value is not None and not 0 < value < math.inf:
        raise BadRequest(f"{param.opts[0]} must be above 0 and finite, not {value:g}")
    return value


def train(
    data: Annotated[Path, typer.Option(help="Folder of images of good parts, or an MVTec-like tree.")],
    name: Annotated[str, typer.Option(help="Name of the model; a further training is its next version.")],
    teacher: Annotated[
        str, typer.Option(help="Teacher in models/teachers/; auto: the small one that suits the product.")
    ] = AUTO,
    recipe: Annotated[str, typer.Option(help="default, paper (70,000 steps) or matlab.")] = "default",
    steps: Annotated[int | None, typer.Option(min=20, help="Steps in place of the recipe's own.")] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=1, help="At most so long for the steps: fewer of them on a slow machine. Calibration comes on top."
        ),
    ] = None,
    global_map: Annotated[bool, typer.Option(help="Learn logical flaws too (the autoencoder).")] = True,
    group_by: Annotated[
        str | None, typer.Option(help="Regular expression that names the part in a file's path.")
    ] = None,
    penalty: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            file_okay=False,
            help="Folder of pictures of anything else, for the student to stay silent on; paper and matlab generate some.",
        ),
    ] = None,
    working_size: Annotated[
        int | None, typer.Option(min=64, help="Longer side in px that the network works at.")
    ] = None,
    lighting: Annotated[
        LightingChoice,
        typer.Option(
            help="even: local flaws where light changes between or within pictures, not wide shades; auto: as painted flaws say."
        ),
    ] = "as_is",
    layout: Annotated[
        LayoutChoice,
        typer.Option(
            help="fixed: parts always lie alike, what is normal is learned place by place; free: they do not; auto: as seen."
        ),
    ] = "auto",
    roi: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Picture that is white where parts are looked at."),
    ] = None,
    min_flaw_px: Annotated[
        float | None, typer.Option(min=1, callback=_above_zero, help="Smallest flaw that counts, in picture px.")
    ] = None,
    min_flaw_mm: Annotated[
        float | None, typer.Option(callback=_above_zero, help="The same in mm; needs --mm-per-pixel.")
    ] = None,
    mm_per_pixel: Annotated[float | None, typer.Option(callback=_above_zero, help="Scale of the pictures.")] = None,
    false_reject_rate: Annotated[float, typer.Option(help="Share of good parts that may be rejected.")] = 0.01,
    models_dir: Annotated[Path | None, typer.Option(help="Folder of bundles.")] = None,
    runs_dir: Annotated[Path, typer.Option(help="Folder of checkpoints; a killed training goes on from there.")] = Path(
        "runs"
    ),
    fp16: Annotated[
        bool | None,
        typer.Option("--fp16/--no-fp16", help="Make the form that GPUs serve; unset: where there is a GPU."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of splits and training.")] = 0,
    progress: Annotated[
        Path | None,
        typer.Option(
            callback=writable_in_new_folder,
            help="JSON file kept up to date: phase, step, loss, curve, seconds left, error; samples/ beside it.",
        ),
    ] = None,
    background: Annotated[
        int | None,
        typer.Option(min=1, help="Step behind other processes: use at most so many cores, at --nice."),
    ] = None,
    nice: Annotated[
        int, typer.Option(min=0, max=NICEST, help="With --background; 19 takes only what nobody else wants.")
    ] = NICEST,
) -> None:
    """Learn what good parts look like, and write a bundle that `flawscribe serve` answers with.

    Examples:

        flawscribe train --data photos/good --name bracket

        flawscribe train --data photos --name tile --group-by 'tile_(\\d+)' --working-size 640
    """
    if background is not None:
        step_behind(background, nice)  # first of all: threads that are started later inherit it
    if not re.match(NAME_PATTERN, name) or name == RESERVED:  # now, and not after minutes of training
        raise BadRequest(
            f"--name {name!r}: small letters, digits, dots, dashes and underscores, first a letter or digit, at most 64; "
            f"not {RESERVED!r}"
        )
    require_torch()
    from service.training.recipes import recipe_named  # noqa: PLC0415
    from service.training.runs import BuildSettings  # noqa: PLC0415 - torch is loaded only here

    recipe_named(recipe, 1)  # raises BadRequest for an unknown one
    if not 0 < false_reject_rate < 0.5:
        raise BadRequest(f"--false-reject-rate {false_reject_rate}: must lie between 0 and 0.5")
    if min_flaw_mm is not None:
        if mm_per_pixel is None:
            raise BadRequest("--min-flaw-mm needs --mm-per-pixel")
        min_flaw_px = min_flaw_mm / mm_per_pixel
    settings = BuildSettings(
        data=data,
        name=name,
        models_dir=models_dir or load_settings().models_dir,
        runs_dir=runs_dir,
        teacher=teacher,
        recipe=recipe,
        steps=steps,
        minutes=minutes,
        global_map=global_map,
        group_by=group_by,
        penalty=penalty,
        working_size=working_size,
        lighting=lighting,
        layout=layout,
        roi=roi,
        min_flaw_px=min_flaw_px,
        mm_per_pixel=mm_per_pixel,
        false_reject_rate=false_reject_rate,
        half=fp16,
        seed=seed,
    )
    started = time.monotonic()
    further = keeps_choice(settings.models_dir, name)
    folder = _build(settings) if progress is None else _build_watched(settings, ProgressFile(progress))
    typer.echo(f"{folder} written in {(time.monotonic() - started) / 60:.1f} minutes; look at {folder}/report.html")
    if further:
        typer.echo(written(folder))


def _build(settings: BuildSettings) -> Path:
    from service.training.build import build  # noqa: PLC0415

    _require_folders(settings)
    return build(settings, _say, _Bar())


def _build_watched(settings: BuildSettings, file: ProgressFile) -> Path:
    """The same with a progress file, which also tells of its end."""
    from service.training.build import build  # noqa: PLC0415

    def say(text: str) -> None:
        _say(text)
        file.say(text)

    try:
        _require_folders(settings)
        folder = build(settings, say, file.step, _evaluated(file))
    except FlawscribeError as error:
        file.failed(error.detail)
        raise
    except Exception as error:
        file.failed(f"{type(error).__name__}: {error}")
        raise
    file.done(folder)
    return folder


def _require_folders(settings: BuildSettings) -> None:
    for folder in (settings.models_dir, settings.runs_dir):
        require_folder(folder / settings.name)


def _evaluated(file: ProgressFile) -> Callable[[int, float, Sequence[Sample]], None]:
    """Draws an evaluation's pictures: heat begins at half the highest score that an untouched one has."""
    from service.training.report import thumbnail  # noqa: PLC0415

    def evaluated(step: int, score: float, samples: Sequence[Sample]) -> None:
        highest = max((each.anomaly_map.score for each in samples if not each.flawed), default=0.1)
        limits = Thresholds(max(highest, 1e-6), max(2 * highest, 2e-6))
        drawn = [
            (thumbnail(each.rgb, each.anomaly_map, limits), each.flawed, each.anomaly_map.score) for each in samples
        ]
        file.evaluated(step, score, drawn)

    return evaluated


def _say(text: str) -> None:
    typer.echo(text, err=True)


class _Bar:
    """Step, loss and time left."""

    def __init__(self) -> None:
        self._left = TimeLeft()

    def __call__(self, step: int, steps: int, loss: float) -> None:
        left = self._left.after(step, steps)
        known = "" if left is None else f"{left / 60:5.1f} min left "
        count(step, steps, f"step {step}/{steps}  loss {loss:.4f}  {known}")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(train)
