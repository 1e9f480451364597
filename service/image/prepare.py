"""RGB picture -> windows for the network. Training, calibration, evaluation and serving all use this one function.

A picture is resized to its working resolution (aspect ratio kept), given 16 px of context on every side (real
pixels inside, reflected at its border) and cut into 256x256 windows that step by 224. Each window answers with
56x56 cells at a stride of 4; cell i has its 33 px receptive field centred on working pixel 4i. Laid side by side the
cells equal one fully convolutional pass, so there is neither a blind border nor a seam.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from service.image.lighting import lit
from service.types import Lighting, Tile, TilePlan, Wanted

WINDOW = 256  # px: the network's input
CONTEXT = 16  # px on each side of what a window speaks for: half the 33 px receptive field
STEP = WINDOW - 2 * CONTEXT  # px: what one window speaks for
STRIDE = 4  # px between the centres of neighbouring cells
CELLS = STEP // STRIDE  # cells per window side
JPEG_SCALES = (8, 4, 2)  # at a fraction 1/s of their size JPEGs can be decoded for less work


class PrepareRecipe(BaseModel):
    """How a picture reaches its working resolution; chosen at training and recorded in the manifest.

    `long_side`: the longer side becomes `value` px. `scale`: both sides are multiplied by `value` (for pictures
    cut to different sizes at one magnification). `jpeg`: whether JPEGs are decoded whole, or `scaled`: no finer than the
    working resolution needs (`jpeg_scale`). `lighting`: whether light is taken as it is or evened (`lighting.lit`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: Literal["long_side", "scale"] = "long_side"
    value: float = Field(gt=0)
    resample: Literal["pillow-bilinear"] = "pillow-bilinear"
    jpeg: Literal["full", "scaled"] = "full"
    lighting: Lighting = "as_is"


def working_size(width: int, height: int, recipe: PrepareRecipe) -> tuple[int, int]:
    """Working (width, height) in px of a picture of `width` x `height` px; at least 1 px each."""
    factor = recipe.value / max(width, height) if recipe.rule == "long_side" else recipe.value
    return max(1, round(width * factor)), max(1, round(height * factor))


def jpeg_scale(width: int, height: int, recipe: PrepareRecipe) -> int:
    """The scale 1/s at which a JPEG of `width` x `height` px is decoded: s = 8, 4, 2 or 1.

    The largest at which the picture is at least as large as its working resolution and its sides are whole numbers, so
    that its windows lie where those of the whole picture would.
    """
    if recipe.jpeg == "full":
        return 1
    long_side = max(working_size(width, height, recipe))
    fitting = (s for s in JPEG_SCALES if not (width % s or height % s) and max(width, height) // s >= long_side)
    return next(fitting, 1)


def plan_tiles(width: int, height: int, recipe: PrepareRecipe, *, global_map: bool) -> TilePlan:
    """Cut a picture of `width` x `height` px into windows. Raises ValueError for an empty picture.

    With `global_map` (the model has an autoencoder) the whole picture, shrunk into one window, is added when the
    tiles do not already show it whole.
    """
    if width < 1 or height < 1:
        raise ValueError(f"a picture needs at least one pixel, got {width}x{height}")
    w, h = working_size(width, height, recipe)
    tiles = tuple(Tile(row, column) for row in range(-(-h // STEP)) for column in range(-(-w // STEP)))
    whole_w = whole_h = 0
    if global_map and len(tiles) > 1:
        shrink = STEP / max(w, h)
        whole_w, whole_h = max(1, round(w * shrink)), max(1, round(h * shrink))
    return TilePlan(
        width=width,
        height=height,
        working_width=w,
        working_height=h,
        tiles=tiles,
        rows=-(-h // STRIDE),
        columns=-(-w // STRIDE),
        whole_width=whole_w,
        whole_height=whole_h,
        lighting=recipe.lighting,
    )


def wanted_kinds(recipe: PrepareRecipe, *, global_map: bool) -> tuple[Wanted, ...]:
    """What windows of pictures prepared like that are run for, whatever the pictures' sizes (`TilePlan.wanted`)."""
    if not global_map:
        return ("maps",)
    if recipe.rule == "scale":
        return ("maps", "structural", "logical")
    return ("maps",) if round(recipe.value) <= STEP else ("structural", "logical")


def whole_cells(plan: TilePlan) -> tuple[int, int]:
    """Rows and columns of cells that the picture has of its own in what the logical map is of: the shrunk whole, or the only
    tile. Without either, of several tiles, those of the picture."""
    if plan.whole_width:
        return -(-plan.whole_height // STRIDE), -(-plan.whole_width // STRIDE)
    return plan.rows, plan.columns


def prepare(picture: NDArray[np.uint8] | Image.Image, plan: TilePlan) -> NDArray[np.uint8]:
    """Windows uint8 [plan.windows,256,256,3] of the picture, uint8 [H,W,3] or Pillow's RGB: tiles row by row, then the whole.

    It may be a JPEG's scaled decoding. Raises ValueError when the picture has another size than the plan was made for.
    """
    image = as_image(picture)
    if image.mode != "RGB" or not any(image.size == (plan.width / s, plan.height / s) for s in (1, *JPEG_SCALES)):
        found = f"{image.height}x{image.width} {image.mode}"
        raise ValueError(f"plan is for {plan.height}x{plan.width} RGB, picture is {found}")
    windows = np.empty((plan.windows, WINDOW, WINDOW, 3), np.uint8)
    canvas = canvas_of(image, plan)
    for index, tile in enumerate(plan.tiles):
        top, left = tile.row * STEP, tile.column * STEP
        windows[index] = canvas[top : top + WINDOW, left : left + WINDOW]
    if plan.whole_width:
        windows[-1] = with_context(lit(resize(image, plan.whole_width, plan.whole_height), plan.lighting))
    return windows


def canvas_of(image: Image.Image, plan: TilePlan) -> NDArray[np.uint8]:
    """uint8 [h,w,3]: the picture at its working resolution, in the plan's light, with its context; tiles are cut from it."""
    return with_context(lit(resize(image, plan.working_width, plan.working_height), plan.lighting))


def as_image(picture: NDArray[np.uint8] | Image.Image) -> Image.Image:
    """A picture uint8 [H,W,3] as Pillow's image; one that is such an image already as it is."""
    return picture if isinstance(picture, Image.Image) else Image.fromarray(picture)


def resize(image: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    """uint8 [height,width,3], antialiased; unchanged pixels when the size already fits."""
    if image.size == (width, height):
        return np.asarray(image)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def with_context(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture with its context: 16 px more on each side and up to whole windows, reflected at the border."""
    height, width = rgb.shape[:2]
    below = -(-height // STEP) * STEP - height + CONTEXT
    right = -(-width // STEP) * STEP - width + CONTEXT
    return np.pad(rgb, ((CONTEXT, below), (CONTEXT, right), (0, 0)), mode="reflect")


def thumbnail(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 [16,16,3], 0..255: by which normal pictures are told from each other at a glance."""
    small = Image.fromarray(rgb).resize((16, 16), Image.Resampling.BOX, reducing_gap=2.0)
    return np.asarray(small, np.float32)
