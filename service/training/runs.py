"""A training's settings, and its folder in runs/: the checkpoint that it goes on from, and run.json, which says whose it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from service.bundle.manifest import AUTO
from service.errors import BadRequest
from service.types import LayoutChoice, LightingChoice

Say = Callable[[str], None]
_RECORD = "run.json"


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What `flawscribe train` was asked for."""

    data: Path
    name: str
    models_dir: Path
    runs_dir: Path
    teacher: str = AUTO
    teachers_dir: Path = Path("models/teachers")
    recipe: str = "default"
    steps: int | None = None
    minutes: float | None = None  # for the training's steps, at most
    global_map: bool = True
    group_by: str | None = None
    penalty: Path | None = None
    working_size: int | None = None
    lighting: LightingChoice = "as_is"
    layout: LayoutChoice = "auto"
    roi: Path | None = None
    min_flaw_px: float | None = None
    mm_per_pixel: float | None = None
    false_reject_rate: float = 0.01
    half: bool | None = None  # whether the fp16 form, which GPUs serve, is made too; None: where there is a GPU
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """What a checkpoint belongs to: going on from it makes sense only for the same settings, images, penalty images, teacher and
    recipe, which another release may have changed under its name."""

    settings: BuildSettings
    images: str  # fingerprint
    teacher: str  # sha256
    # of records from before they had them, None: digest of the penalty images; the recipe's fields
    penalty: str | None = None
    recipe: dict[str, str | int | float | bool | None] | None = None

    def trains_as(self, other: Run) -> bool:
        """Whether both train alike. What is settled behind the last step may differ: it costs minutes, and no training. So may
        the words by which a teacher was asked for: its sha256 tells which it is."""
        names = ("layout", "false_reject_rate", "mm_per_pixel", "half", "models_dir", "runs_dir", "teacher")
        alike: dict[str, Any] = {name: getattr(other.settings, name) for name in names}
        penalty = self.penalty if other.penalty is not None else None  # as before: the folder alone is compared
        recipe = self.recipe if other.recipe is not None else None  # as before: its name alone
        return replace(self, settings=replace(self.settings, **alike), penalty=penalty, recipe=recipe) == other


def checkpoint_of(run: Run, starts: bool, say: Say) -> Path:
    """The run's checkpoint file. One of another training under the same name is put aside when a training `starts`.

    Raises BadRequest when it does not start but finish another one: that needs the images it was trained on.
    """
    folder = run.settings.runs_dir / run.settings.name
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint, record = folder / "checkpoint.pt", folder / _RECORD
    recorded = _recorded(record)
    if checkpoint.exists() and (recorded is None or not run.trains_as(recorded)):
        if not starts:
            raise BadRequest(
                f"the images, penalty images, teacher or recipe have changed since {checkpoint} was made; train anew"
            )
        checkpoint.replace(folder / "checkpoint.old.pt")
        say(
            f"{folder} held another training (settings, images, penalty images, teacher or recipe differ): starting anew"
        )
    record.write_bytes(TypeAdapter(Run).dump_json(run, indent=1))
    return checkpoint


def _recorded(record: Path) -> Run | None:
    """What a run's record says; settings that it was made without are at their defaults. None where it cannot be read."""
    try:
        return TypeAdapter(Run).validate_json(record.read_bytes())
    except (OSError, ValidationError):
        return None


def remembered(run_dir: Path) -> BuildSettings:
    """The settings of a run. Raises BadRequest when the folder is no run of `flawscribe train`."""
    if (recorded := _recorded(run_dir / _RECORD)) is None:
        raise BadRequest(f"{run_dir} is no run of `flawscribe train`: {_RECORD} cannot be read")
    return recorded.settings
