"""A pre-training as it is asked for, and what is kept of it: known by its settings, and by the names and contents of its
folders and of what it started from, so that it goes on wherever these lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from service.errors import BadRequest
from service.image.folder import pictures_below
from service.training.network import PdnSize
from service.training.teacher import load_teacher
from service.training.teacher_checkpoint import Checkpoint, Stateful, content_of, fingerprint, read_checkpoint


@dataclass(frozen=True, slots=True)
class PretrainSettings:
    """What one pre-training run does. `folders` are searched for pictures; `generated` textures are added to them."""

    folders: tuple[str, ...]
    size: PdnSize = "small"
    generated: int = 3000
    steps: int = 3000
    batch: int = 16
    crop: int = 96  # px
    positions: int = 64  # sampled in each crop
    jitter: int = 2  # px by which matched positions may lie apart
    temperature: float = 0.1
    covariance: float = 0.02
    read_out: float = 0.3  # weight of telling flawed cells from untouched ones
    learning_rate: float = 1e-3
    seed: int = 0
    save_every: int = 100
    start_from: str | None = None  # checkpoint of an earlier run, or a teacher, whose weights this one goes on from
    distil: str | None = (
        None  # a wider teacher's weights file, whose features are learned in place of finding places again
    )


_OF_CONTRAST = ("positions", "temperature", "covariance", "read_out")  # mean nothing where features are distilled


def runs_of(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Settings and steps of the run and of those it started from, the first one first; folders by their last name."""
    settings = {**state["settings"], "folders": [Path(folder).name for folder in state["settings"]["folders"]]}
    start = settings.pop("start_from", None)
    if settings.pop("distil", None) is not None:
        settings = {name: value for name, value in settings.items() if name not in _OF_CONTRAST}
        settings["distil"] = state["identity"]["distil"]
    before = state["before"] if "before" in state else _before(start)
    return [*before, {"steps_done": state["step"], "settings": settings}]


def _before(start: str | None) -> list[dict[str, Any]]:
    """The runs of what a run starts from."""
    if start is None:
        return []
    if start.endswith(".safetensors"):
        return list(load_teacher(start).card.get("recipe", {}).get("runs", []))
    return runs_of(read_checkpoint(Path(start)))


@dataclass(frozen=True, slots=True)
class Run:
    """A run and what is kept of it."""

    settings: PretrainSettings
    checkpoint: Checkpoint
    parts: Mapping[str, Stateful]
    known: dict[str, Any] = field(default_factory=dict)  # identity, and the runs before

    def resume(self) -> int:
        """The step to go on from; 0 without a checkpoint. Raises BadRequest when it is of another run."""
        if not self.checkpoint.exists():
            self.known.update(identity=self._identity(), before=_before(self.settings.start_from))
            return 0
        state = read_checkpoint(self.checkpoint.file)
        if not self._is_of(state):
            raise BadRequest(
                f"{self.checkpoint.file} is of a run with other settings or pictures; remove it or repeat its settings"
            )
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.known.update(identity=self._identity(state), before=runs_of(state)[:-1])
        return int(state["step"])

    def save(self, step: int, optimiser: torch.optim.Optimizer) -> None:
        """Keep the run as it stands behind that step."""
        self.checkpoint.round_moments(optimiser)
        states = {name: part.state_dict() for name, part in self.parts.items()}
        states["optimiser"] = self.checkpoint.kept(optimiser)
        self.checkpoint.save({"settings": asdict(self.settings), "step": step, **self.known, **states})

    def _is_of(self, state: Mapping[str, Any]) -> bool:
        if "identity" not in state:  # of an earlier version
            mine = asdict(self.settings)
            return bool({**mine, **state["settings"]} == mine and mine["distil"] is None)
        return bool(state["identity"] == self._identity(state))

    def _identity(self, earlier: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The settings on which the result depends, folders and the start by name and content. A start that has gone since
        is as it was in the `earlier` state: the run no longer needs it."""
        settings = {**asdict(self.settings), "folders": [_content(folder) for folder in self.settings.folders]}
        del settings["save_every"]
        del settings["distil"]  # a run without it is known as runs were before there was any
        if self.settings.distil is not None:
            settings["distil"] = _named(Path(self.settings.distil))
        if self.settings.start_from is not None:
            start = Path(self.settings.start_from)
            known = (earlier or {}).get("identity", {}).get("start_from") or {}
            gone = not Checkpoint(start).exists() and known.get("name") == start.name
            settings["start_from"] = known if gone else _named(start)
        return settings


def _named(file: Path) -> dict[str, str]:
    """A file's last name and its content."""
    return {"name": file.name, "sha256": content_of(file)}


def _content(folder: str) -> dict[str, str]:
    """A folder's last name, and what its pictures are."""
    root = Path(folder).resolve()
    files = [(path.relative_to(folder).as_posix(), path) for path in pictures_below(Path(folder))]
    return {"name": root.name, "sha256": fingerprint(files)}
