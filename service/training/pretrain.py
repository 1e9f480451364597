"""Pre-training a teacher without labels: dense contrastive learning over matched positions.

Two views of one crop, a little apart and disturbed only photometrically, pass through the PDN; a position must find its
partner among all other sampled positions of the batch (InfoNCE, temperature 0.1). A third view has flaws painted in: the
same place with a flaw is one more negative, and the nearest of all, so that what is made invariant is light and grain but
not a scratch; a linear read-out must also tell flawed cells from untouched ones. A covariance term keeps the 384 channels
comparable and decorrelated, as EfficientAD's squared distance and hard loss assume (VICReg, arXiv 2105.04906).

    flawscribe teacher pretrain --folder PICTURES --checkpoint run/small.pt --name own

A second stage (service/training/distil.py) goes through the same loop: its pictures, views, checkpoints and card are these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.engine.session import available_cores
from service.errors import BadRequest
from service.training.distil import Distiller
from service.training.drawing import Drawing, drawn
from service.training.grow import grown
from service.training.network import TEACHER_CHANNELS, Pdn, mixed_precision, normalise
from service.training.teacher import load_teacher, save_teacher
from service.training.teacher_checkpoint import Checkpoint, read_checkpoint
from service.training.teacher_run import PretrainSettings, Run, runs_of
from service.training.teacher_views import MAX_SHIFT, Views, load_pictures


def pretrain(
    settings: PretrainSettings,
    checkpoint: Path | Checkpoint,
    progress: Callable[[int, int, float], None] | None = None,
    workers: int | None = None,
) -> Pdn:
    """Train (or go on from `checkpoint`, written every `save_every` steps) and return the teacher in eval mode.

    Runs on CUDA where there is a GPU, in bfloat16 where it can. `progress(step, steps, loss)`. `workers`: processes that draw
    the views, 0 for a thread, None for as many as a GPU needs and a thread without one; what is drawn does not depend on it.
    Raises BadRequest when a folder holds no picture, or the checkpoint is of another run.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(settings.seed)
    kept = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
    learner = _Learner(settings) if settings.distil is None else Distiller(settings.size, settings.distil)
    if settings.start_from is not None and not kept.exists():
        _begin_with(learner, settings, settings.start_from)
    learner = learner.to(device=device)
    learner.pdn = learner.pdn.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(learner.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.steps + 1, pct_start=0.05, cycle_momentum=False
    )
    run = Run(settings, kept, {"learner": learner, "optimiser": optimiser, "schedule": schedule})
    first = run.resume()
    pictures = load_pictures(settings.folders, settings.generated, settings.seed)
    drawing = Drawing(settings.batch, settings.crop, settings.jitter, settings.seed)
    if workers is None:
        workers = available_cores() if device.type == "cuda" else 0
    for step, views in enumerate(drawn(drawing, pictures, range(first, settings.steps), workers), first):
        loss = learner(*_tensors(views, device), step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, settings.steps, float(loss.detach()))
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            run.save(step + 1, optimiser)
    return learner.pdn.eval().requires_grad_(False)


def _begin_with(learner: _Learner | Distiller, settings: PretrainSettings, start: str) -> None:
    """Take the weights of a run's checkpoint, or the network of a teacher (`*.safetensors`), grown where it is smaller."""
    if start.endswith(".safetensors"):
        network = load_teacher(start).network
        if isinstance(network, Pdn) and (network.size, settings.size) == ("small", "medium"):
            network = grown(network, settings.seed)
        if not isinstance(network, Pdn) or network.size != settings.size:
            raise BadRequest(f"{start} is no PDN-{settings.size}: a training cannot go on from it")
        learner.pdn.load_state_dict(network.state_dict())
    else:  # a run of another recipe may have fewer parts
        learner.load_state_dict(read_checkpoint(Path(start))["learner"], strict=False)


def _tensors(views: Views, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """All views uint8 [3*batch,crop,crop,3], the shifts, and where the third third is flawed."""
    images = torch.from_numpy(np.concatenate([views.first, views.second, views.flawed]))
    return images.to(device), torch.from_numpy(views.shifts).to(device), torch.from_numpy(views.flaw).to(device)


def teacher_of(checkpoint: Path) -> Pdn:
    """The teacher as it stands in a run's checkpoint, float32, in eval mode and without gradients."""
    state = read_checkpoint(checkpoint)
    pdn = Pdn(state["settings"]["size"])
    prefix = "pdn."
    pdn.load_state_dict({k.removeprefix(prefix): v for k, v in state["learner"].items() if k.startswith(prefix)})
    return pdn.eval().requires_grad_(False)


def export_teacher(checkpoint: Path, name: str, directory: Path, card: Mapping[str, Any]) -> Path:
    """Write the teacher of a run, finished or not, with its card; `card` says on which data, under which licences."""
    runs = runs_of(read_checkpoint(checkpoint))
    recipe = {"method": _method(runs), "runs": runs}
    steps = sum(run["steps_done"] for run in runs)
    return save_teacher(teacher_of(checkpoint), name, directory, {"recipe": recipe, "steps": steps, **card})


def _method(runs: Sequence[Mapping[str, Any]]) -> str:
    """How a teacher of these runs was made, in words."""
    wider = (run["settings"].get("distil") for run in runs)
    taught = dict.fromkeys(each and Path(each["name"]).stem for each in wider)
    own = "dense InfoNCE over matched positions, painted flaws as nearest negatives, and a covariance term"
    return "; then ".join(f"distilled from {name}" if name else own for name in taught)


class _Learner(nn.Module):
    def __init__(self, settings: PretrainSettings) -> None:
        super().__init__()
        self.settings = settings
        self.pdn = Pdn(settings.size)
        self.head = nn.Sequential(
            nn.Linear(TEACHER_CHANNELS, TEACHER_CHANNELS), nn.ReLU(), nn.Linear(TEACHER_CHANNELS, 128)
        )
        self.reader = nn.Linear(TEACHER_CHANNELS, 1)

    def forward(self, images: Tensor, shifts: Tensor, flaw: Tensor, step: int) -> Tensor:
        """Loss of three batches of views uint8 [3*N,crop,crop,3]: as it is, moved by `shifts` [N,2] cells, and flawed
        where `flaw` [N,cells,cells] is 1."""
        with mixed_precision(images.device):
            found = self.pdn(normalise(images))
        a, b, c = found.float().permute(0, 2, 3, 1).chunk(3)
        index = self._places(flaw, shifts, step)
        dy, dx = shifts[index[0]].unbind(1)
        # view 2 starts (dy,dx) cells further: what is at (y+dy, x+dx) in view 1 is at (y, x) in view 2
        here = (index[0], index[1] + dy, index[2] + dx)
        left, right, spoilt, state = a[here], b[index], c[here], flaw[here]
        anchors, partners, strangers = (functional.normalize(self.head(part), dim=1) for part in (left, right, spoilt))
        logits = anchors @ partners.T
        own = (anchors * strangers).sum(dim=1, keepdim=True).masked_fill((state != 1)[:, None], -torch.inf)
        target = torch.arange(len(logits), device=logits.device)
        scale = self.settings.temperature
        contrast = functional.cross_entropy(torch.cat([logits, own], dim=1) / scale, target)
        contrast = (contrast + functional.cross_entropy(logits.T / scale, target)) / 2
        known = ~flaw.isnan()
        guessed = self.reader((c[known] - left.mean(dim=0)) / left.std(dim=0).clamp_min(1e-6))[:, 0]
        told = functional.binary_cross_entropy_with_logits(guessed, flaw[known])
        spread = self.settings.covariance * (_covariance(left) + _covariance(right))
        return contrast + self.settings.read_out * told + spread

    def _places(self, flaw: Tensor, shifts: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """(crop, row, column) in view 2 of `positions` places per crop that both views see, half of them flawed in view 3
        as far as there are such."""
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + step)
        count, side = flaw.shape[:2]
        cells = side - MAX_SHIFT
        chance = torch.rand((count, cells * cells), generator=generator).to(flaw.device)
        row, column = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
        rows, columns = row.reshape(1, -1).to(flaw.device), column.reshape(1, -1).to(flaw.device)
        crops = torch.arange(count, device=flaw.device)[:, None]
        spoilt = flaw[crops, rows + shifts[:, :1], columns + shifts[:, 1:]] == 1
        positions = min(self.settings.positions, cells * cells)
        half = positions // 2
        favoured = (chance * spoilt).topk(half, dim=1).indices  # flawed places first, then any
        rest = chance.scatter(1, favoured, -1.0).topk(positions - half, dim=1).indices
        chosen = torch.cat([favoured, rest], dim=1)
        return crops.expand_as(chosen).flatten(), rows[0, chosen].flatten(), columns[0, chosen].flatten()


def _covariance(features: Tensor) -> Tensor:
    """VICReg's variance and covariance terms on features [M,C], in units of the mean variance."""
    centred = features - features.mean(dim=0)
    centred = centred / centred.pow(2).mean().sqrt().clamp_min(1e-6)
    covariance = centred.T @ centred / (len(centred) - 1)
    spread = functional.relu(1 - covariance.diagonal().clamp_min(1e-6).sqrt()).mean()
    off_diagonal = covariance - torch.diag(covariance.diagonal())
    return spread * len(covariance) / 4 + off_diagonal.pow(2).sum() / len(covariance)
