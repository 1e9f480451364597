"""Training schedules by name."""

from __future__ import annotations

from dataclasses import dataclass

from service.errors import BadRequest


@dataclass(frozen=True, slots=True)
class Recipe:
    """One schedule. Batches are windows per step; `hard_share` is the share of elements of each window in the loss.

    `steps` is the most; with `patience` (evaluations without a better score) the last phase may begin earlier.
    `penalty_batch`: penalty images a step, 0 for none; of those, squares of `penalty_side` px.
    `directions`: how many of the difference's directions the structural map looks along; None: all channels, as the paper.
    `drop`: the paper's one step down to a tenth at 95 %, or a straight line to zero over the last `tail` of the run.
    """

    name: str
    steps: int
    batch: int
    penalty_batch: int
    whole_batch: int
    learning_rate: float
    penalty_side: int = 256  # px
    hard_share: float = 0.001
    weight_decay: float = 1e-5
    warm_up: int = 0
    tail: float = 0.05
    linear_tail: bool = False
    evaluate_every: int = 1000
    patience: int | None = None
    directions: int | None = None


RECIPES: tuple[str, ...] = ("default", "paper", "matlab")


def recipe_named(name: str, images: int) -> Recipe:
    """The recipe `name` for a training set of `images` pictures. Raises BadRequest for an unknown name."""
    if name == "default":
        return Recipe(
            name="default",
            steps=min(max(1000, 4 * images), 2000),  # of many pictures the loss still falls after a thousand
            batch=2,
            penalty_side=128,
            penalty_batch=0,  # painted flaws are told as well without (docs/decisions/0029)
            whole_batch=1,
            learning_rate=1.5e-3,
            hard_share=0.1,  # the paper's 0.001 learns from too few elements a step (docs/decisions/0004)
            warm_up=20,
            tail=0.3,
            linear_tail=True,
            evaluate_every=200,
            patience=2,
            directions=64,
        )
    if name == "paper":  # appendix A.1
        return Recipe("paper", steps=70_000, batch=1, penalty_batch=1, whole_batch=1, learning_rate=1e-4)
    if name == "matlab":  # 8 random patches per picture and epoch, 100 epochs
        return Recipe("matlab", steps=800 * images, batch=1, penalty_batch=1, whole_batch=1, learning_rate=1e-4)
    raise BadRequest(f"no recipe {name!r}; there are: {', '.join(RECIPES)}")
