"""Pre-training a teacher without labels: dense contrastive learning over matched positions.

Two views of one crop, shifted by whole cells and disturbed only photometrically, pass through the PDN; a position must
find its partner among all other sampled positions of the batch (InfoNCE, temperature 0.1). A covariance term keeps the
384 channels comparable and decorrelated, as EfficientAD's squared distance and hard loss assume (VICReg, arXiv
2105.04906). Augmentation is mild: what a teacher is made blind to cannot be found later.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from service.errors import BadRequest
from service.image.prepare import STRIDE
from service.samples.textures import random_texture
from service.training.network import Pdn, PdnSize, normalise

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
_MAX_SHIFT = 2  # cells


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
    crop: int = 96
    positions: int = 64  # sampled in each crop
    temperature: float = 0.1
    covariance: float = 0.02
    learning_rate: float = 1e-3
    seed: int = 0
    save_every: int = 100


def pretrain(
    settings: PretrainSettings, checkpoint: Path, progress: Callable[[int, int, float], None] | None = None
) -> Pdn:
    """Train (or go on from `checkpoint`, written every `save_every` steps) and return the teacher in eval mode.

    Runs on CUDA where there is a GPU, in bfloat16 autocast. `progress(step, steps, loss)`. Raises BadRequest when a
    folder holds no picture, or the checkpoint is of another run.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(settings.seed)
    learner = _Learner(settings).to(device=device)
    learner.pdn = learner.pdn.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(learner.parameters(), lr=settings.learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.learning_rate, total_steps=settings.steps + 1, pct_start=0.05, cycle_momentum=False
    )
    first = _resume(checkpoint, settings, learner=learner, optimiser=optimiser, schedule=schedule)
    pictures = load_pictures(settings)
    for step in range(first, settings.steps):
        rng = np.random.default_rng((settings.seed, step))  # by step, so that a resumed run sees the same crops
        shifts = rng.integers(0, _MAX_SHIFT + 1, (settings.batch, 2))
        first_view, second_view = draw_views(pictures, settings, shifts, rng)
        loss = learner(*(torch.from_numpy(part).to(device) for part in (first_view, second_view, shifts)), step)
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


def teacher_of(checkpoint: Path) -> Pdn:
    """The teacher as it stands in a run's checkpoint, float32, in eval mode and without gradients."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    pdn = Pdn(state["settings"]["size"])
    prefix = "pdn."
    pdn.load_state_dict({k.removeprefix(prefix): v for k, v in state["learner"].items() if k.startswith(prefix)})
    return pdn.eval().requires_grad_(False)


class _Learner(nn.Module):
    def __init__(self, settings: PretrainSettings) -> None:
        super().__init__()
        self.settings = settings
        self.pdn = Pdn(settings.size)
        self.head = nn.Sequential(nn.Linear(384, 384), nn.ReLU(), nn.Linear(384, 128))

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
        cells = side - _MAX_SHIFT
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


def load_pictures(settings: PretrainSettings) -> list[NDArray[np.uint8]]:
    """All pictures of the folders, short side at most 288 px, and the generated ones, as uint8 [H,W,3] in memory."""
    files = [
        path
        for folder in settings.folders
        for path in sorted(Path(folder).rglob("*"))
        if path.suffix.lower() in _SUFFIXES
    ]
    if settings.folders and not files:
        raise BadRequest(f"no picture found in {', '.join(settings.folders)}")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(_small_picture, files))
    seeds = np.random.SeedSequence(settings.seed).spawn(settings.generated)
    return found + [random_texture(np.random.default_rng(seed), 256, 256) for seed in seeds]


def _small_picture(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        rgb = image.convert("RGB")
        shrink = 288 / min(rgb.size)
        if shrink < 1:
            rgb = rgb.resize((round(rgb.width * shrink), round(rgb.height * shrink)), Image.Resampling.BILINEAR)
        return np.asarray(rgb)


def draw_views(
    pictures: Sequence[NDArray[np.uint8]],
    settings: PretrainSettings,
    shifts: NDArray[np.int64],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Two batches of views uint8 [batch,crop,crop,3]: the second moved by `shifts` [batch,2] cells, each disturbed."""
    crop = settings.crop
    first = np.empty((settings.batch, crop, crop, 3), np.uint8)
    second = np.empty_like(first)
    for index in range(settings.batch):
        patch = _crop(pictures[int(rng.integers(len(pictures)))], crop + _MAX_SHIFT * STRIDE, rng)
        dy, dx = shifts[index] * STRIDE
        first[index] = disturb(patch[:crop, :crop], rng)
        second[index] = disturb(patch[dy : dy + crop, dx : dx + crop], rng)
    return first, second


def _crop(picture: NDArray[np.uint8], side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A square of `side` px: random scale, quarter turn and mirroring, sometimes grey or faint; for both views."""
    height, width = picture.shape[:2]
    taken = int(np.clip(side * rng.uniform(0.6, 1.8), 16, min(height, width)))
    top, left = int(rng.integers(height - taken + 1)), int(rng.integers(width - taken + 1))
    image = Image.fromarray(picture[top : top + taken, left : left + taken])
    patch = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR), np.float32)
    patch = np.rot90(patch, int(rng.integers(4)))
    if rng.random() < 0.5:
        patch = patch[:, ::-1]
    if rng.random() < 0.3:
        patch = np.repeat(patch.mean(axis=2, keepdims=True), 3, axis=2)
    if rng.random() < 0.3:  # low contrast, as on plain industrial surfaces
        mean = patch.mean(axis=(0, 1))
        patch = mean + (patch - mean) * rng.uniform(0.15, 0.6)
    return patch


def disturb(patch: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Mild photometric noise of one view: brightness, contrast, colour balance and sensor noise; structure stays."""
    mean = patch.mean()
    contrast, brightness = rng.uniform(0.85, 1.18), rng.uniform(-14, 14)
    balance = 1 + rng.normal(0, 0.02, 3)
    noisy = ((patch - mean) * contrast + mean + brightness) * balance
    noisy = noisy + rng.normal(0, rng.uniform(0, 5), patch.shape)
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)


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
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if state["settings"] != asdict(settings):
        raise BadRequest(f"{checkpoint} is of a run with other settings; remove it or repeat its settings")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["step"])
