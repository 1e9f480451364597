"""Pre-training a teacher without labels: dense contrastive learning over matched positions.

Two views of one crop, a little apart and disturbed only photometrically, pass through the PDN; a position must find its
partner among all other sampled positions of the batch (InfoNCE, temperature 0.1). A covariance term keeps the 384
channels comparable and decorrelated, as EfficientAD's squared distance and hard loss assume (VICReg, arXiv 2105.04906).

    python -m service.training.pretrain --folder PICTURES --checkpoint run/small.pt --export pdn-small
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.errors import BadRequest
from service.training.network import PDN_SIZES, TEACHER_CHANNELS, Pdn, PdnSize, normalise
from service.training.teacher import DEFAULT_DIRECTORY, save_teacher
from service.training.teacher_views import MAX_SHIFT, Views, draw_views, load_pictures


class _Stateful(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


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
    learning_rate: float = 1e-3
    seed: int = 0
    save_every: int = 100
    start_from: str | None = None  # checkpoint of an earlier run whose weights this one goes on from


def pretrain(
    settings: PretrainSettings, checkpoint: Path, progress: Callable[[int, int, float], None] | None = None
) -> Pdn:
    """Train (or go on from `checkpoint`, written every `save_every` steps) and return the teacher in eval mode.

    Runs on CUDA where there is a GPU, in bfloat16 autocast. `progress(step, steps, loss)`. Raises BadRequest when a
    folder holds no picture, or the checkpoint is of another run.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(settings.seed)
    learner = _Learner(settings)
    if settings.start_from is not None and not checkpoint.exists():
        learner.load_state_dict(_read(Path(settings.start_from))["learner"])
    learner = learner.to(device=device)
    learner.pdn = learner.pdn.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(learner.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.steps + 1, pct_start=0.05, cycle_momentum=False
    )
    first = _resume(checkpoint, settings, learner=learner, optimiser=optimiser, schedule=schedule)
    pictures = load_pictures(settings.folders, settings.generated, settings.seed)
    for step in range(first, settings.steps):
        rng = np.random.default_rng((settings.seed, step))  # by step, so that a resumed run sees the same crops
        views = draw_views(pictures, settings.batch, settings.crop, settings.jitter, rng)
        loss = learner(*_tensors(views, device), step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, settings.steps, float(loss.detach()))
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            _save(checkpoint, settings, step + 1, learner=learner, optimiser=optimiser, schedule=schedule)
    return learner.pdn.eval().requires_grad_(False)


def _tensors(views: Views, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    first, second, shifts = (torch.from_numpy(part).to(device) for part in (views.first, views.second, views.shifts))
    return first, second, shifts


def teacher_of(checkpoint: Path) -> Pdn:
    """The teacher as it stands in a run's checkpoint, float32, in eval mode and without gradients."""
    state = _read(checkpoint)
    pdn = Pdn(state["settings"]["size"])
    prefix = "pdn."
    pdn.load_state_dict({k.removeprefix(prefix): v for k, v in state["learner"].items() if k.startswith(prefix)})
    return pdn.eval().requires_grad_(False)


def export_teacher(checkpoint: Path, name: str, directory: Path, card: Mapping[str, Any]) -> Path:
    """Write the teacher of a run, finished or not, with its card; `card` says on which data, under which licences."""
    state = _read(checkpoint)
    settings = {**state["settings"], "folders": [Path(folder).name for folder in state["settings"]["folders"]]}
    if settings.get("start_from"):
        settings["start_from"] = Path(settings["start_from"]).name
    recipe = {
        "method": "dense InfoNCE over matched positions with a covariance term on the 384 channels",
        "steps_done": state["step"],
        "settings": settings,
    }
    return save_teacher(teacher_of(checkpoint), name, directory, {"recipe": recipe, **card})


class _Learner(nn.Module):
    def __init__(self, settings: PretrainSettings) -> None:
        super().__init__()
        self.settings = settings
        self.pdn = Pdn(settings.size)
        self.head = nn.Sequential(
            nn.Linear(TEACHER_CHANNELS, TEACHER_CHANNELS), nn.ReLU(), nn.Linear(TEACHER_CHANNELS, 128)
        )

    def forward(self, first: Tensor, second: Tensor, shifts: Tensor, step: int) -> Tensor:
        """Loss of two batches of views uint8 [N,crop,crop,3]; the second is moved by `shifts` [N,2] cells."""
        with torch.autocast(first.device.type, torch.bfloat16):
            both = self.pdn(normalise(torch.cat([first, second])))
        a, b = both.float().permute(0, 2, 3, 1).chunk(2)
        left, right = self._matched(a, b, shifts, step)
        anchors = functional.normalize(self.head(left), dim=1)
        partners = functional.normalize(self.head(right), dim=1)
        logits = anchors @ partners.T / self.settings.temperature
        target = torch.arange(len(logits), device=logits.device)
        contrast = (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2
        return contrast + self.settings.covariance * (_covariance(left) + _covariance(right))

    def _matched(self, a: Tensor, b: Tensor, shifts: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """`positions` places per crop that both views see: features [N*positions,384] of each."""
        count, side = len(a), a.shape[1]
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + step)
        cells = side - MAX_SHIFT
        flat = torch.stack(
            [torch.randperm(cells * cells, generator=generator)[: self.settings.positions] for _ in range(count)]
        ).to(a.device)
        y, x = flat // cells, flat % cells
        index = torch.arange(count, device=a.device)[:, None]
        dy, dx = shifts[:, :1], shifts[:, 1:]
        # view 2 starts (dy,dx) cells further: what is at (y+dy, x+dx) in view 1 is at (y, x) in view 2
        return a[index, y + dy, x + dx].flatten(0, 1), b[index, y, x].flatten(0, 1)


def _covariance(features: Tensor) -> Tensor:
    """VICReg's variance and covariance terms on features [M,C], in units of the mean variance."""
    centred = features - features.mean(dim=0)
    centred = centred / centred.pow(2).mean().sqrt().clamp_min(1e-6)
    covariance = centred.T @ centred / (len(centred) - 1)
    spread = functional.relu(1 - covariance.diagonal().clamp_min(1e-6).sqrt()).mean()
    off_diagonal = covariance - torch.diag(covariance.diagonal())
    return spread * len(covariance) / 4 + off_diagonal.pow(2).sum() / len(covariance)


def _save(checkpoint: Path, settings: PretrainSettings, step: int, **parts: _Stateful) -> None:
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    state = {"settings": asdict(settings), "step": step, **{name: part.state_dict() for name, part in parts.items()}}
    temporary = checkpoint.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(checkpoint)


def _resume(checkpoint: Path, settings: PretrainSettings, **parts: _Stateful) -> int:
    """The step to go on from; 0 without a checkpoint."""
    if not checkpoint.exists():
        return 0
    state = _read(checkpoint)
    if state["settings"] != asdict(settings):
        raise BadRequest(f"{checkpoint} is of a run with other settings; remove it or repeat its settings")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])


def _read(checkpoint: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return state


def main() -> None:
    """Pre-train from the command line; repeating the same command goes on where it was stopped."""
    parser = argparse.ArgumentParser(description="Pre-train a teacher")
    parser.add_argument("--folder", action="append", default=[], help="searched for pictures; may be repeated")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--size", choices=PDN_SIZES, default="small")
    for name in ("generated", "steps", "batch", "crop", "jitter", "seed", "save_every"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=argparse.SUPPRESS)
    parser.add_argument("--learning-rate", type=float, default=argparse.SUPPRESS)
    parser.add_argument("--start-from", default=argparse.SUPPRESS, help="checkpoint of an earlier run")
    parser.add_argument("--export", metavar="NAME", help="write the teacher under this name at the end")
    parser.add_argument("--directory", type=Path, default=DEFAULT_DIRECTORY)
    parser.add_argument("--data", default="", help="the data and their licences, for the card")
    options = vars(parser.parse_args())
    export, directory, data = options.pop("export"), options.pop("directory"), options.pop("data")
    checkpoint = options.pop("checkpoint")
    pretrain(PretrainSettings(folders=tuple(options.pop("folder")), **options), checkpoint, _print_progress)
    if export:
        print(export_teacher(checkpoint, export, directory, {"data": data}))


def _print_progress(step: int, steps: int, loss: float) -> None:
    if step % 20 == 0 or step == steps:
        print(f"step {step} of {steps}  loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
