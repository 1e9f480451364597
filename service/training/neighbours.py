"""Which teacher suits a product: how well its features tell painted flaws from good parts by their nearest neighbours.

That takes a minute where a training takes a quarter of an hour, and by it sets differ more than by anything else in a
training (docs/decisions/0020). `benchmarks/teacher_probe.py` ranks teachers with the same bank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from service.decision.scale import BORDER_CELLS, border_distance, stitch_features
from service.errors import BadRequest
from service.image.prepare import PrepareRecipe
from service.training.features import FeatureBank, own_features
from service.training.metrics import auroc
from service.training.network import TeacherNetwork, mixed_precision, normalise
from service.training.select import Example
from service.training.teacher import Teacher, load_teacher

_BANK = 5_000  # cells
_EACH = 600  # cells of one picture
_COMPONENTS = 128
MOST = 40  # pictures to fill the bank from
_TOP = 10  # cells whose mean is a picture's score
_COVERED = 0.25  # share of a cell's own pixels from which it counts as flawed
CLEAR = 0.02  # what evened light must gain: it makes blind to wide shades, which are seldom painted
PREFERRED = "energies"  # the least work to serve
GAIN = 0.1  # what another must have over it: students fall behind their teachers' neighbours (docs/decisions/0028)


Light = tuple[PrepareRecipe, Sequence[Example]]


class Bank:
    """Whitened features of normal pictures; `distances` are to the nearest neighbour."""

    def __init__(self, normals: Iterable[Tensor], rng: np.random.Generator) -> None:
        """`normals`: features float32 [h,w,channels] of each picture."""
        sampled = []
        for picture in normals:
            flat = picture.flatten(0, 1)
            sampled.append(flat[torch.from_numpy(rng.permutation(len(flat))[:_EACH])])
        cells = torch.cat(sampled)
        self.mean = cells.mean(dim=0)
        values, vectors = torch.linalg.eigh(torch.cov(cells.T))
        kept = slice(-_COMPONENTS, None)
        shrunk = values[kept] + 0.01 * values.mean()  # small components carry the flaws, the smallest only noise
        self.turn = vectors[:, kept] / shrunk.clamp_min(1e-12).sqrt()
        chosen = torch.from_numpy(rng.permutation(len(cells))[:_BANK])
        self.cells = self.whitened(cells[chosen])
        self.squares = self.cells.square().sum(dim=1)

    def whitened(self, cells: Tensor) -> Tensor:
        """float32 [n,channels] -> [n,128] at most."""
        turned: Tensor = (cells - self.mean) @ self.turn
        return turned

    def distances(self, picture: Tensor) -> NDArray[np.float32]:
        """float32 [h,w]: squared distance of each cell of a picture's features [h,w,channels]."""
        height, width = picture.shape[:2]
        query = self.whitened(picture.flatten(0, 1))
        # in small blocks, whose products stay in the cache
        nearest = torch.cat(
            [
                torch.addmm(self.squares, block, self.cells.T, alpha=-2).min(dim=1).values
                for block in torch.split(query, 128)
            ]
        )
        return np.asarray((nearest + query.square().sum(dim=1)).reshape(height, width).numpy(), np.float32)


def small_teachers(directory: Path) -> list[Teacher]:
    """The teachers to choose from. Raises BadRequest when there is none."""
    found = [load_teacher(file.stem, directory) for file in sorted(directory.glob("*.safetensors"))]
    teachers = [teacher for teacher in found if teacher.size == "small"]
    if not teachers:
        raise BadRequest(
            f"no small teacher in {directory}; `flawscribe teacher import FILE` takes published weights, "
            "`flawscribe teacher pretrain` trains one"
        )
    return teachers


def choose_teacher(
    directory: Path,
    pictures: Sequence[NDArray[np.uint8]],
    recipe: PrepareRecipe,
    examples: Sequence[Example],
    device: torch.device,
    say: Callable[[str], None],
) -> Teacher:
    """The small teacher in `directory` whose features tell the painted `examples` best from the untouched ones, with a bank
    of the training `pictures` uint8 [H,W,3]; `energies` unless another is better by far. Medium ones are taken by name alone: they
    cost several times as much to serve.

    Raises BadRequest when there is no small teacher.
    """
    teachers = small_teachers(directory)
    teachers.sort(key=lambda teacher: teacher.name != PREFERRED)
    if len(teachers) == 1:
        return teachers[0]
    say("comparing the teachers at hand on this product")
    figures = [separation(teacher.network.to(device), pictures[:MOST], recipe, examples) for teacher in teachers]
    best = max(
        range(len(teachers)),
        key=lambda index: figures[index] - (GAIN if index and teachers[0].name == PREFERRED else 0),
    )
    told = ", ".join(f"{figure:.3f} with {teacher.name}" for teacher, figure in zip(teachers, figures, strict=True))
    say(f"telling painted flaws by the teacher's features alone (1 is perfect): {told}; {teachers[best].name} is used")
    return teachers[best]


def is_better_lit(
    network: TeacherNetwork,
    pictures: Sequence[NDArray[np.uint8]],
    as_is: Light,
    even: Light,
    say: Callable[[str], None],
) -> bool:
    """Whether a teacher's features tell painted flaws clearly better where the light of all pictures is evened out. Each light
    is a recipe with the examples prepared by it; `pictures` uint8 [H,W,3] fill the bank."""
    say("looking whether evening out the light helps on this product")
    before, after = (separation(network, pictures[:MOST], *light) for light in (as_is, even))
    better = after > before + CLEAR
    used = "evened out" if better else "taken as it is"
    say(
        f"telling painted flaws (1 is perfect): {before:.3f} in the light as it is, {after:.3f} evened out; it is {used}"
    )
    return better


def separation(
    network: TeacherNetwork,
    pictures: Sequence[NDArray[np.uint8]],
    recipe: PrepareRecipe,
    examples: Sequence[Example],
) -> float:
    """Mean of image and cell AUROC, 0..1, of the distances to the nearest neighbours among the `pictures`."""
    normals = FeatureBank(pictures, recipe, network).canvases
    rng = np.random.default_rng(0)
    bank = Bank((own_features(each).float().permute(1, 2, 0) for each in normals if each.features is not None), rng)
    scores, cells, masks = [], [], []
    for example in examples:
        distances = bank.distances(_features(network, example))
        inner = border_distance(*distances.shape) >= min(BORDER_CELLS, (min(distances.shape) - 1) // 2)
        scores.append(np.sort(distances[inner])[-_TOP:].mean())
        cells.append(distances[inner])
        mask = np.zeros(distances.shape, bool)
        if example.mask is not None:
            size = (distances.shape[1], distances.shape[0])
            mask = (
                np.asarray(Image.fromarray(example.mask).convert("L").resize(size, Image.Resampling.BOX))
                > 255 * _COVERED
            )
        masks.append(mask[inner])
    flawed, covered = np.array([example.mask is not None for example in examples]), np.concatenate(masks)
    by_cell = auroc(np.concatenate(cells), covered) if covered.any() else 0.5
    return (auroc(np.array(scores), flawed) + by_cell) / 2


@torch.no_grad()
def _features(network: TeacherNetwork, example: Example) -> Tensor:
    """float32 [rows,columns,channels] on the picture's own cells."""
    device = next(network.parameters()).device
    tiles = torch.from_numpy(example.windows[: len(example.plan.tiles)])
    with mixed_precision(device):
        parts = [network(normalise(tile[None].to(device))).half().cpu() for tile in tiles]
    return torch.from_numpy(stitch_features(torch.cat(parts).numpy(), example.plan)).float()
