"""One training step of each recipe beside the reference implementation's way, how near to the processor's limit it is, and
where its time goes.

The reference way is nelson1425/EfficientAD's loop: batch 1 in float32, every picture decoded from disk at every step, the
teacher run anew on it, and the hard loss's quantile over the whole feature map.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode

from service.bench.machine import describe
from service.bench.timing import median_ms, ratio, take_turns
from service.image.prepare import WINDOW, PrepareRecipe
from service.samples import render
from service.samples.textures import random_texture
from service.training.features import FeatureBank
from service.training.network import TEACHER_CHANNELS, Autoencoder, Detector, Pdn, PdnSize, normalise
from service.training.penalty import PenaltyImages
from service.training.recipes import recipe_named
from service.training.select import Selection
from service.training.train import Trainer

Row = dict[str, Any]
_PICTURES = 8
_WORKING = PrepareRecipe(value=448)
_SIDE = 2048  # of the square matrices by which the processor's limit is measured
_LIMIT_RUNS = 5
_PROFILED = 5  # steps
_PARTS = ("data", "teacher", "student", "autoencoder", "backward", "optimiser", "rest")
Places = dict[str, Sequence[tuple[Any, str]]]  # of a part of the step: the methods that are it, with their owners


def measure(*, rounds: int = 10, size: PdnSize = "small") -> Row:
    """Figures of a step of each recipe and of the reference way, run in turns."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        files = _files(Path(folder))
        pictures = [np.asarray(Image.open(file)) for file in files[:_PICTURES]]
        teacher = Pdn(size).eval().requires_grad_(False).to(device)  # its weights do not matter for time
        bank = FeatureBank(pictures, _WORKING, teacher)
        ways: dict[str, tuple[Callable[[], object], int, int]] = {}
        places: dict[str, Places] = {}
        for name in ("default", "paper"):
            recipe = recipe_named(name, len(pictures))
            trainer = Trainer(
                teacher,
                bank,
                PenaltyImages(None),
                Selection(pictures[:1], _WORKING, global_map=True, min_flaw_px=1.0, flaws_each=0),
                replace(recipe, warm_up=0),
                global_map=True,
            )
            ways[name] = (_stepper(trainer, device), recipe.batch, recipe.steps)
            places[name] = _places(trainer)
        reference = Reference(files[:_PICTURES], files[_PICTURES:], teacher)
        ways["reference"] = (_synchronised(reference.step, device), 1, recipe_named("paper", 1).steps)
        work = {name: _flop(step) for name, (step, _, _) in ways.items()}
        seconds = take_turns({name: step for name, (step, _, _) in ways.items()}, rounds)
        places["reference"] = reference.places()
        profiles = {name: _profiled(ways[name][0], places[name]) for name in ("default", "reference")}
        limits = {str(dtype).removeprefix("torch."): _limit(dtype, device) for dtype in _kinds(device)}
    best = max(limits.values())
    rows = []
    for name, (_, batch, steps) in ways.items():
        median = median_ms(seconds[name])
        reached = work[name] / (median / 1000)
        rows.append(
            {
                "way": name,
                "windows_per_step": batch,
                "median_ms": round(median, 1),
                "slowest_ms": round(1000 * max(seconds[name]), 1),
                "ratio_to_reference": round(1 / ratio(seconds[name], seconds["reference"]), 2),
                "gflop_per_step": round(work[name] / 1e9, 1),
                "gflop_per_s": round(reached / 1e9, 1),
                "share_of_limit": round(reached / best, 3),
                "steps": steps,
                "minutes_in_all": round(steps * median / 60_000, 1),
            }
        )
    return {
        "machine": describe(),
        "device": device.type,
        "network": size,
        "matrix_limit_gflop_per_s": {name: round(value / 1e9, 1) for name, value in limits.items()},
        "rows": rows,
        "profile": [
            {
                "part": part,
                **{f"{name}_{key}": value for name in profiles for key, value in profiles[name][part].items()},
            }
            for part in _PARTS
        ],
    }


def _files(folder: Path) -> list[Path]:
    """Pictures of generated parts, then as many general ones, as files: what a training folder holds."""
    rng = np.random.default_rng(0)
    parts = [render("polka-dot", rng).image for _ in range(_PICTURES)]
    general = [random_texture(rng, 480, 640) for _ in range(_PICTURES)]
    files = []
    for index, rgb in enumerate([*parts, *general]):
        files.append(folder / f"{index}.jpg")
        Image.fromarray(rgb).save(files[-1], quality=92)
    return files


def _stepper(trainer: Trainer, device: torch.device) -> Callable[[], object]:
    step = 0

    def run() -> None:
        nonlocal step
        trainer._step(step)
        step += 1

    return _synchronised(run, device)


def _places(trainer: Trainer) -> Places:
    detector = trainer.detector
    return {
        "data": [(trainer.bank, "windows"), (trainer.bank, "augmented_wholes"), (trainer.penalty, "draw")],
        "teacher": [(detector.teacher, "forward")],
        "student": [(trainer, "_student")],
        "autoencoder": [(detector.autoencoder, "forward")],
        "backward": [(Tensor, "backward")],
        "optimiser": [(trainer.optimiser, "step")],
    }


def _profiled(step: Callable[[], object], places: Places) -> dict[str, dict[str, float]]:
    """Milliseconds a step of each part, and of them in convolutions. A part within another counts for itself alone; `rest`:
    losses, and what is in no part."""
    with ExitStack() as patched, profile(activities=[ProfilerActivity.CPU]) as seen:
        for part, methods in places.items():
            for owner, name in methods:
                patched.enter_context(patch.object(owner, name, _annotated(part, getattr(owner, name))))
        for _ in range(_PROFILED):
            with record_function("rest"):
                step()
    all_of, convolutions = Counter[str](), Counter[str]()
    for event in seen.events() or ():
        inside = event
        while inside is not None and inside.name not in _PARTS:
            inside = inside.cpu_parent
        if inside is not None:
            milliseconds = event.self_cpu_time_total / 1000 / _PROFILED
            all_of[inside.name] += milliseconds
            convolutions[inside.name] += milliseconds if "conv" in event.name else 0
    return {part: {"ms": round(all_of[part], 1), "convolutions_ms": round(convolutions[part], 1)} for part in _PARTS}


def _annotated(part: str, work: Callable[..., object]) -> Callable[..., object]:
    def run(*given: Any, **named: Any) -> object:
        with record_function(part):
            return work(*given, **named)

    return run


def _synchronised(step: Callable[[], object], device: torch.device) -> Callable[[], object]:
    if device.type != "cuda":
        return step

    def run() -> None:
        step()
        torch.cuda.synchronize()

    return run


def _flop(step: Callable[[], object]) -> int:
    """Floating-point operations of convolutions and matrix products, forwards and backwards."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def _kinds(device: torch.device) -> Sequence[torch.dtype]:
    return (torch.float32, torch.bfloat16, torch.float16) if device.type == "cuda" else (torch.float32, torch.bfloat16)


def _limit(dtype: torch.dtype, device: torch.device) -> float:
    """Operations a second of a large matrix product: what a step could reach at best."""
    a, b = (torch.randn(_SIDE, _SIDE, dtype=dtype, device=device) for _ in range(2))
    multiply = _synchronised(lambda: a @ b, device)
    multiply()
    times = []
    for _ in range(_LIMIT_RUNS):
        started = time.perf_counter()
        multiply()
        times.append(time.perf_counter() - started)
    return 2 * _SIDE**3 / min(times)


class Reference:
    """The reference implementation's step on the published layers."""

    def __init__(self, parts: Sequence[Path], general: Sequence[Path], teacher: Pdn) -> None:
        self.parts, self.general = parts, general
        self.device = next(teacher.parameters()).device
        student = Pdn(teacher.size, 2 * TEACHER_CHANNELS)
        self.detector = Detector(teacher, student, Autoencoder()).to(self.device).train()
        assert self.detector.autoencoder is not None
        self.autoencoder = self.detector.autoencoder
        trained = [*student.parameters(), *self.autoencoder.parameters()]
        self.optimiser = torch.optim.Adam(trained, lr=1e-4, weight_decay=1e-5)
        self.rng = np.random.default_rng(0)

    def step(self) -> float:
        """One step; its loss."""
        part, penalty = self._window(self.parts), self._window(self.general)
        with torch.no_grad():
            taught, taught_whole = self._teach(part), self._teach(part)
        student = self.detector.student
        distance = (taught - student(part)[:, :TEACHER_CHANNELS]) ** 2
        hard = distance[distance >= torch.quantile(distance, 0.999)].mean()
        silent = (student(penalty)[:, :TEACHER_CHANNELS] ** 2).mean()
        rebuilt = self.autoencoder(part)
        copied = student(part)[:, TEACHER_CHANNELS:]
        loss = hard + silent + ((taught_whole - rebuilt) ** 2).mean() + ((rebuilt - copied) ** 2).mean()
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())

    def places(self) -> Places:
        """The parts of a step."""
        return {
            "data": [(self, "_window")],
            "teacher": [(self.detector.teacher, "forward")],
            "student": [(self.detector.student, "forward")],
            "autoencoder": [(self.autoencoder, "forward")],
            "backward": [(Tensor, "backward")],
            "optimiser": [(self.optimiser, "step")],
        }

    def _teach(self, image: Tensor) -> Tensor:
        raw = self.detector.teacher(image)
        standard: Tensor = (raw - self.detector.mean[:, None, None]) / self.detector.std[:, None, None]
        return standard

    def _window(self, files: Sequence[Path]) -> Tensor:
        with Image.open(files[int(self.rng.integers(len(files)))]) as image:
            small = image.convert("RGB").resize((WINDOW, WINDOW), Image.Resampling.BILINEAR)
        pixels: NDArray[np.uint8] = np.array(small)
        return normalise(torch.from_numpy(pixels[None]).to(self.device)).contiguous()
