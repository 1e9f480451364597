"""Training EfficientAD's student and autoencoder on the normals of one product (Batzner et al., WACV 2024, appendix A.1)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.errors import BadRequest
from service.training.features import FeatureBank
from service.training.network import (
    TEACHER_CHANNELS,
    Autoencoder,
    Detector,
    Pdn,
    TeacherNetwork,
    mixed_precision,
    normalise,
)
from service.training.penalty import PenaltyImages
from service.training.recipes import Recipe
from service.training.select import Sample, Selection

_TIMED = 40  # steps after which a run knows how long a step takes here
_SETTLED = 0.5  # share of the learning rate below which a network counts as finished
Progress = Callable[[int, int, float], None]  # step, steps, loss
Evaluated = Callable[[int, float, Sequence[Sample]], None]  # step, selection score, pictures with their maps


@dataclass
class History:
    """The training curve: one (step, loss) a step, one (step, selection score) an evaluation."""

    losses: list[tuple[int, float]] = field(default_factory=list)
    scores: list[tuple[int, float]] = field(default_factory=list)


class Trainer:
    """One run, resumable from its checkpoint file. `run` returns the detector of the best checkpoint, quantiles set.

    The best is chosen by painted flaws among those after the fall of the learning rate: a network from the middle of a run may
    tell painted flaws better by chance, and tells real ones worse (docs/decisions/0028).
    """

    def __init__(
        self,
        teacher: TeacherNetwork,
        bank: FeatureBank,
        penalty: PenaltyImages,
        selection: Selection,
        recipe: Recipe,
        *,
        global_map: bool,
        seed: int = 0,
        minutes: float | None = None,
    ) -> None:
        """`minutes`: fewer steps than the recipe's where this machine would take longer for them. Raises BadRequest when
        they are too few for any training."""
        torch.manual_seed(seed)
        self.minutes = minutes
        self.device = bank.device
        self.bank, self.penalty, self.selection, self.recipe, self.seed = bank, penalty, selection, recipe, seed
        student = Pdn(teacher.size, 2 * TEACHER_CHANNELS if global_map else TEACHER_CHANNELS)
        self.detector = Detector(teacher, student, Autoencoder() if global_map else None).to(self.device)
        mean, std = bank.statistics()
        self.detector.mean.copy_(mean)
        self.detector.std.copy_(std)
        trained = [*student.parameters()]
        if self.detector.autoencoder is not None:
            trained += [*self.detector.autoencoder.parameters()]
        self.optimiser = torch.optim.Adam(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
        self.end = recipe.steps
        self.history = History()
        self.best: tuple[float, dict[str, Any]] | None = None
        self.settled = False  # whether `best` is from after the fall of the learning rate

    def run(self, checkpoint: Path, progress: Progress | None = None, evaluated: Evaluated | None = None) -> Detector:
        """Train from the checkpoint, or from the start, to the end; the checkpoint is renewed at every evaluation."""
        step = self._resume(checkpoint)
        began, first = time.monotonic(), step
        if step >= self.end and progress is not None:
            progress(step, self.end, self.history.losses[-1][1])  # there is nothing left to learn
        while step < self.end:
            loss = self._step(step)
            step += 1
            if first == 0 and step == _TIMED and self.minutes is not None:
                self._end_in_time((time.monotonic() - began) / step)
            self.history.losses.append((step, loss))
            if progress is not None:
                progress(step, self.end, loss)
            if step % self.recipe.evaluate_every == 0 or step == self.end:
                self._evaluate(step)
                self._save(checkpoint, step)
                if evaluated is not None:
                    evaluated(step, self.history.scores[-1][1], self.selection.samples)
        return self._best()

    def best_so_far(self, checkpoint: Path) -> Detector:
        """The detector of the best evaluation in the checkpoint, without training on. Raises BadRequest without one."""
        if not self._resume(checkpoint):
            raise BadRequest(f"{checkpoint} does not exist: nothing has been trained there yet")
        return self._best()

    def _best(self) -> Detector:
        if self.best is None:
            raise BadRequest("the training has not been evaluated yet; let it go on for a while")
        self.detector.load_state_dict(self.best[1])
        return self.detector.eval()

    def _step(self, step: int) -> float:
        rng = np.random.default_rng((self.seed, step))
        self.detector.train()
        self.detector.teacher.eval()
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate * self._rate(step)
        loss = self._loss(rng)
        if not torch.isfinite(loss):
            raise BadRequest(f"the loss is not finite at step {step}; is a training image damaged?")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return float(loss.detach())

    def _loss(self, rng: np.random.Generator) -> Tensor:
        """Hard loss + penalty + autoencoder + student-autoencoder (paper appendix A.1)."""
        recipe = self.recipe
        seen = self.bank.windows(rng, recipe.batch)
        imitation = self._student(seen.images, 0, TEACHER_CHANNELS)
        loss = hard_loss(self._standard(seen.features) - imitation, recipe.hard_share, seen.own)
        if recipe.penalty_batch:
            general = self.penalty.draw(rng, recipe.penalty_batch, recipe.penalty_side).to(self.device)
            loss = loss + self._student(general, 0, TEACHER_CHANNELS).square().mean()
        if self.detector.autoencoder is None:
            return loss
        wholes = self.bank.augmented_wholes(rng, recipe.whole_batch)
        with mixed_precision(self.device):
            rebuilt = self.detector.autoencoder(normalise(wholes.images))
        rebuilt = rebuilt.float()
        copied = self._student(wholes.images, TEACHER_CHANNELS, 2 * TEACHER_CHANNELS)
        taught = hard_loss(self._standard(wholes.features) - rebuilt, 1.0, wholes.own)
        total: Tensor = loss + taught + hard_loss(rebuilt.detach() - copied, 1.0, wholes.own)
        return total

    def _student(self, images: Tensor, start: int, stop: int) -> Tensor:
        """The student's output channels start..stop, float32; the half that a loss does not look at is not computed."""
        with mixed_precision(self.device):
            output = self.detector.student.channels(normalise(images), start, stop)
        return output.float()

    def _standard(self, raw: Tensor) -> Tensor:
        standard: Tensor = (raw - self.detector.mean[:, None, None]) / self.detector.std[:, None, None]
        return standard

    def _rate(self, step: int) -> float:
        """Share of the full learning rate: warm-up, constant, then the drop where this run will end."""
        recipe = self.recipe
        tail = max(1, round(recipe.tail * self.end))
        if step < recipe.warm_up:
            return (step + 1) / recipe.warm_up
        if step < self.end - tail:
            return 1.0
        return max(0.02, (self.end - step) / tail) if recipe.linear_tail else 0.1

    def _end_in_time(self, seconds: float) -> None:
        """Bring the end forward, and with it the fall of the learning rate, for steps of so many seconds."""
        assert self.minutes is not None
        affordable = int(60 * self.minutes / seconds)
        if affordable < 2 * _TIMED:
            raise BadRequest(
                f"{self.minutes:g} minutes are {affordable} steps of {seconds:.1f} s here; allow at least "
                f"{math.ceil(2 * _TIMED * seconds / 60)} minutes, or choose a smaller --working-size"
            )
        self.end = min(self.end, affordable)

    def _evaluate(self, step: int) -> None:
        self.detector.eval()
        with mixed_precision(self.device):  # as the steps; build() sets the quantiles anew
            score = self.selection.score(self.detector)
        self.history.scores.append((step, score))
        settled = step > self.recipe.warm_up and self._rate(step - 1) <= _SETTLED
        if self.best is None or settled > self.settled or score >= self.best[0]:
            self.best = (score, deepcopy(self.detector.state_dict()))
            self.settled = settled
        patience, tail = self.recipe.patience, round(self.recipe.tail * self.recipe.steps)
        if patience is None or step > self.end - tail:
            return
        recent = self.history.scores[-patience:]
        if len(self.history.scores) > patience and max(value for _, value in recent) < self.best[0] - 1e-9:
            self.end = min(self.end, math.ceil(step / (1 - self.recipe.tail)))

    def _save(self, checkpoint: Path, step: int) -> None:
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "recipe": asdict(self.recipe),
            "step": step,
            "end": self.end,
            "detector": self.detector.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
            "settled": self.settled,
            "history": asdict(self.history),
            "random": torch.get_rng_state(),  # the autoencoder's dropout draws from it
        }
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        temporary = checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        temporary.replace(checkpoint)

    def _resume(self, checkpoint: Path) -> int:
        if not checkpoint.exists():
            return 0
        state = torch.load(checkpoint, map_location=self.device, weights_only=True)
        if state["recipe"] != asdict(self.recipe):
            raise BadRequest(f"{checkpoint} is of a run with another recipe; remove it to start anew")
        self.detector.load_state_dict(state["detector"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.end, self.best, self.settled = state["end"], state["best"], state["settled"]
        self.history = History(**state["history"])
        if "random" in state:  # not in checkpoints of before
            torch.set_rng_state(state["random"].cpu())
        if "random_cuda" in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(state["random_cuda"].cpu(), self.device)
        return int(state["step"])


def hard_loss(difference: Tensor, share: float, own: Tensor | None = None) -> Tensor:
    """Mean over the `share` of elements of each image with the largest squared difference [N,C,H,W] (paper section 3.2).

    `own`: bool [N,H,W], the cells of each image that count, at least one; None: all of them. By image, so that its meaning
    does not change with the batch; top-k, since torch.quantile stops at 2**24 elements.
    """
    if own is None:
        own = torch.ones_like(difference[:, 0], dtype=torch.bool)
    each = []
    for image, mask in zip(difference.square(), own, strict=True):
        squared = image.flatten() if mask.all() else image[:, mask].flatten()
        count = math.ceil(share * len(squared))
        each.append((squared if count == len(squared) else squared.topk(count, sorted=False).values).mean())
    return torch.stack(each).mean()
