"""What is the same for every network and form of one product: how its pictures are prepared, what counts as a flaw on them, and
where they are looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bundle.load import anomaly_map_of
from service.bundle.roi import read_roi
from service.decision.scale import roi_cells
from service.engine.batcher import MOST_WINDOWS
from service.engine.session import Session
from service.errors import BadRequest, FlawscribeError
from service.image.packing import pack_tiles
from service.image.prepare import STRIDE, PrepareRecipe, plan_tiles, working_size
from service.training.data import NormalImage, Splits, choose_recipe
from service.training.layout import FEWEST, have_one_grid
from service.training.runs import BuildSettings
from service.types import AnomalyMap, Border, LocalScale

Picture = NDArray[np.uint8]
_ROI_ASPECT = 0.02  # by how much a mask's aspect may differ from a picture's, relative


@dataclass(frozen=True, slots=True)
class Product:
    """`min_flaw_px`: px of the picture. `roi`: bool [H,W], true where it is looked at, or None. `local`: how maps are scaled."""

    recipe: PrepareRecipe
    global_map: bool
    min_flaw_px: float
    roi: NDArray[np.bool_] | None
    local: LocalScale = field(default_factory=Border)

    def anomaly_map(self, session: Session, rgb: Picture) -> AnomalyMap:
        """A picture's anomaly map through the served path."""
        return anomaly_map_of(
            session,
            rgb,
            recipe=self.recipe,
            global_map=self.global_map,
            min_flaw_px=self.min_flaw_px,
            roi=self.roi,
            local=self.local,
        )

    def score(self, session: Session, rgb: Picture) -> float:
        """A picture's anomaly score through the served path."""
        return self.anomaly_map(session, rgb).score

    def seen_pixels(self, rgb: Picture) -> int:
        """How many pixels of a picture uint8 [H,W,3] the network sees."""
        width, height = working_size(rgb.shape[1], rgb.shape[0], self.recipe)
        return width * height

    def notes(self, images: Sequence[NormalImage]) -> list[str]:
        """What a person should know: when the largest picture has more windows than a service's queue takes as it is set up."""
        plans = (
            plan_tiles(*size, self.recipe, global_map=self.global_map)
            for size in {(each.width, each.height) for each in images}
        )
        windows = max(pack_tiles(plan).windows for plan in plans)
        if windows <= MOST_WINDOWS:
            return []
        return [
            f"the largest picture is judged in {windows} windows: the service takes {MOST_WINDOWS} until FLAWSCRIBE_QUEUE_WINDOWS "
            "says more; a smaller --working-size has fewer"
        ]


def product_of(settings: BuildSettings, splits: Splits) -> Product:
    """The product as the settings and its normals have it, maps not scaled by place yet. Raises BadRequest for settings that do not
    fit the pictures."""
    images = splits.images
    recipe = choose_recipe(images, settings.working_size)
    sizes = [(image.width, image.height) for image in splits.train]
    if settings.layout == "fixed" and not have_one_grid(sizes, recipe):
        raise BadRequest(f"--layout fixed needs at least {FEWEST} pictures to learn from, all of one size")
    if settings.lighting == "even":
        recipe = recipe.model_copy(update={"lighting": "even"})
    roi = None
    if settings.roi is not None:
        roi = _mask(settings.roi, images)
        _require_cells(settings.roi, roi, images, recipe)
    if settings.min_flaw_px is not None:
        smallest = settings.min_flaw_px
    else:  # two cells at working resolution: what the network can tell from noise
        image = images[0]
        plan = plan_tiles(image.width, image.height, recipe, global_map=False)
        smallest = round(8 * image.width / plan.working_width, 2)
    longest = max(max(image.width, image.height) for image in images)
    if not 0 < smallest <= longest:  # nor when it is no number
        raise BadRequest(
            f"the smallest flaw that counts must be above 0 px and at most as long as the pictures, {longest} px, not {smallest:g}"
        )
    return Product(recipe, settings.global_map, smallest, roi)


def _mask(file: Path, images: Sequence[NormalImage]) -> NDArray[np.bool_]:
    """The mask bool [H,W] of the region that is looked at. Raises BadRequest when it cannot be read, is black all over, or
    would be stretched over any of the `images`."""
    try:
        roi = read_roi(file.read_bytes())
    except FlawscribeError as error:
        raise BadRequest(f"{file}: {error.detail}") from error
    if not roi.any():
        raise BadRequest(f"{file} is black all over: white marks what is looked at")
    height, width = roi.shape
    other = [each for each in images if abs(width * each.height / (height * each.width) - 1) > _ROI_ASPECT]
    if other:
        raise BadRequest(
            f"{file} has {width}x{height} px, another shape than {len(other)} of {len(images)} pictures, as {other[0].path} "
            f"with {other[0].width}x{other[0].height} px: the mask would be stretched. Draw it on one of the pictures, and "
            "train on pictures of one shape"
        )
    return roi


def _require_cells(file: Path, roi: NDArray[np.bool_], images: Sequence[NormalImage], recipe: PrepareRecipe) -> None:
    """Raises BadRequest when the mask lies between the cells of pictures of any size among the `images`: they would have no
    score, which is found only when thresholds are set, after the training."""
    for width, height in dict.fromkeys((image.width, image.height) for image in images):
        plan = plan_tiles(width, height, recipe, global_map=False)
        if not roi_cells(roi, plan).any():
            least = math.ceil(STRIDE * max(width / plan.working_width, height / plan.working_height))
            raise BadRequest(
                f"{file} is too thin: pictures of {width}x{height} px are looked at every {least} px, and none of these places "
                f"is in its white. Make it at least {least} px of the picture wide and high, or raise --working-size"
            )
