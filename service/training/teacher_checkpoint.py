"""The checkpoint of a pre-training: written whole or not at all, and where files must be small, in parts."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from service.errors import BadRequest

_MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's, as large as the weights each
_PART = re.compile(r"\.(\d{8})\.part(\d{2,})of(\d{2,})$")  # step, number, how many


class Stateful(Protocol):
    """What has a state that can be kept."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a run is kept: `file`, or with `part_bytes` files of at most so many bytes beside it, moments in bfloat16."""

    file: Path
    part_bytes: int | None = None

    def exists(self) -> bool:
        """Whether there is anything to go on from."""
        return self.file.exists() or bool(_parts(self.file))

    def save(self, state: Mapping[str, Any]) -> None:
        """Write `state`, with a `step`, in place of what was there."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if self.part_bytes is None:
            temporary = self.file.with_suffix(".tmp")
            torch.save(dict(state), temporary)
            temporary.replace(self.file)
            written: list[Path] = []
        else:
            buffer = io.BytesIO()
            torch.save(dict(state), buffer)
            written = _write_parts(self.file, int(state["step"]), buffer.getvalue(), self.part_bytes)
            self.file.unlink(missing_ok=True)
        for path in _all_parts(self.file):
            if path not in written:
                path.unlink()

    def round_moments(self, optimiser: torch.optim.Optimizer) -> None:
        """Make Adam's moments those that will be kept, so that a run that was stopped goes on as one that was not."""
        if self.part_bytes is None:
            return
        for state in optimiser.state.values():
            for name in _MOMENTS:
                state[name].copy_(state[name].bfloat16())

    def kept(self, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
        """The optimiser's state as it is kept."""
        state = optimiser.state_dict()
        if self.part_bytes is None:
            return state
        moments = {
            index: {name: value.bfloat16() if name in _MOMENTS else value for name, value in each.items()}
            for index, each in state["state"].items()
        }
        return {**state, "state": moments}


def read_checkpoint(file: Path) -> dict[str, Any]:
    """What was saved last, from the file or its parts. Raises BadRequest for what is none, FileNotFoundError for nothing."""
    refused = BadRequest(f"{file} is no checkpoint of `flawscribe teacher pretrain`")
    parts = [] if file.exists() else _parts(file)
    source = io.BytesIO(b"".join(path.read_bytes() for path in parts)) if parts else file
    try:
        state: dict[str, Any] = torch.load(source, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # whatever PyTorch makes of other files
        raise refused from error
    if not isinstance(state, dict) or not {"settings", "step", "learner"} <= set(state):
        raise refused
    return state


def fingerprint(files: Iterable[tuple[str, Path]]) -> str:
    """sha256 over names and contents of files."""
    whole = hashlib.sha256()
    for name, path in files:
        with path.open("rb") as stream:
            whole.update(f"{name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()


def content_of(file: Path) -> str:
    """sha256 of a checkpoint, be it one file or parts, or of any other file."""
    whole = hashlib.sha256()
    for path in _parts(file) if not file.exists() else [file]:
        whole.update(path.read_bytes())
    return whole.hexdigest()


def _write_parts(file: Path, step: int, data: bytes, part_bytes: int) -> list[Path]:
    """The parts of `data`. A set is complete when the last one has its name, so that no half of one is ever read."""
    count = -(-len(data) // part_bytes)
    paths = [file.with_name(f"{file.name}.{step:08}.part{index:02}of{count:02}") for index in range(count)]
    for index, path in enumerate(paths):
        temporary = file.with_name(f"{file.name}.tmp")
        temporary.write_bytes(data[index * part_bytes : (index + 1) * part_bytes])
        temporary.replace(path)
    return paths


def _all_parts(file: Path) -> list[Path]:
    return [path for path in file.parent.glob(f"{file.name}.*.part*") if _PART.search(path.name)]


def _parts(file: Path) -> list[Path]:
    """The parts of the latest complete set, in order; none without one."""
    sets: dict[tuple[int, int], list[Path]] = {}
    for path in sorted(_all_parts(file)):
        step, _, count = map(int, _PART.search(path.name).groups())  # type: ignore[union-attr]
        sets.setdefault((step, count), []).append(path)
    complete = [key for key, paths in sets.items() if len(paths) == key[1]]
    return sets[max(complete)] if complete else []
