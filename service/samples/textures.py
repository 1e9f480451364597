"""Generated textures of many kinds: penalty images for training, and breadth for the teacher's pre-training."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage, spatial

Grey = NDArray[np.float32]  # [H,W], about 0..1
Colour = NDArray[np.float32]  # [H,W,3], about 0..1


def random_texture(rng: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    """A picture uint8 [height,width,3] of a random kind, lit unevenly, often grey, with sensor noise."""
    maker = _MAKERS[int(rng.integers(len(_MAKERS)))]
    picture = maker(rng, height, width)
    if rng.random() < 0.4:
        picture = _marked(rng, picture)
    picture = picture * _lighting(rng, height, width)[..., None]
    if rng.random() < 0.4:
        picture = np.repeat(picture.mean(axis=2, keepdims=True), 3, axis=2)
    picture = picture + rng.normal(0, rng.uniform(0.002, 0.03), (height, width, 1)).astype(np.float32)
    return np.asarray(np.clip(picture * 255, 0, 255), np.uint8)


def fractal_noise(rng: np.random.Generator, height: int, width: int, slope: float, stretch: float = 1.0) -> Grey:
    """Noise with amplitude ~ 1/frequency**slope, scaled to 0..1; `stretch` > 1 draws it out along x."""
    fy = np.fft.fftfreq(height)[:, None]
    fx = np.fft.rfftfreq(width)[None, :] * stretch
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / max(height, width)) ** slope
    phases = rng.normal(size=amplitude.shape) + 1j * rng.normal(size=amplitude.shape)
    noise = np.fft.irfft2(amplitude * phases, s=(height, width))
    low, high = np.percentile(noise, (1, 99))
    return np.asarray(np.clip((noise - low) / max(high - low, 1e-9), 0, 1), np.float32)


def _palette(rng: np.random.Generator, count: int) -> Colour:
    """`count` colours around one hue, or unrelated ones."""
    base = rng.uniform(0.1, 0.9, 3)
    spread = rng.choice([0.05, 0.15, 0.5])
    return np.asarray(np.clip(base + rng.normal(0, spread, (count, 3)), 0, 1), np.float32)


def _between(rng: np.random.Generator, share: Grey) -> Colour:
    low, high = _palette(rng, 2)
    return np.asarray(low + (high - low) * share[..., None], np.float32)


def _clouds(rng: np.random.Generator, height: int, width: int) -> Colour:
    return _between(rng, fractal_noise(rng, height, width, rng.uniform(0.3, 1.8)))


def _brushed(rng: np.random.Generator, height: int, width: int) -> Colour:
    side = max(height, width) * 3 // 2
    grain = fractal_noise(rng, side, side, rng.uniform(0.2, 0.9), stretch=rng.uniform(8, 60))
    turned = ndimage.rotate(grain, rng.uniform(0, 180), reshape=False, order=1, mode="reflect")
    top, left = (side - height) // 2, (side - width) // 2
    grey = rng.uniform(0.3, 0.8) + rng.uniform(0.05, 0.4) * (turned[top : top + height, left : left + width] - 0.5)
    return np.asarray(grey[..., None] * rng.uniform(0.9, 1.1, 3), np.float32)


def _dead_leaves(rng: np.random.Generator, height: int, width: int) -> Colour:
    """Overlapping shapes with power-law sizes (the statistics of natural scenes)."""
    count = int(rng.integers(60, 400))
    colours = (_palette(rng, count) * 255).astype(int)
    image = Image.new("RGB", (width, height), tuple(int(v) for v in colours[0]))
    draw = ImageDraw.Draw(image)
    sizes = np.clip(3 * rng.pareto(1.2, count) + 2, 2, max(height, width) / 2)
    for size, colour in zip(sizes, colours, strict=True):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        corners = int(rng.integers(3, 9))
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        radius = size * rng.uniform(0.5, 1, corners)
        points = [(x + r * np.cos(a), y + r * np.sin(a)) for a, r in zip(angles, radius, strict=True)]
        if rng.random() < 0.5:
            draw.ellipse((x - size, y - size * 0.7, x + size, y + size * 0.7), fill=tuple(int(v) for v in colour))
        else:
            draw.polygon(points, fill=tuple(int(v) for v in colour))
    picture = np.asarray(image, np.float32) / 255
    grain = fractal_noise(rng, height, width, rng.uniform(0.2, 1.2))[..., None]
    return np.asarray(picture + rng.uniform(0, 0.3) * (grain - 0.5), np.float32)


def _cells(rng: np.random.Generator, height: int, width: int) -> Colour:
    """Voronoi cells with borders, like grains, stones, foam."""
    count = int(rng.integers(30, 600))
    seeds = rng.uniform(0, 1, (count, 2)) * (height, width)
    points = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), axis=-1).reshape(-1, 2)
    near, index = spatial.cKDTree(seeds).query(points, k=2)
    fill = _palette(rng, count)[index[:, 0]].reshape(height, width, 3)
    gap = (near[:, 1] - near[:, 0]).reshape(height, width)
    border = np.clip(gap / rng.uniform(1, 6), 0, 1)[..., None]
    return np.asarray(fill * (rng.uniform(0, 1) * (1 - border) + border), np.float32)


def _weave(rng: np.random.Generator, height: int, width: int) -> Colour:
    pitch_x, pitch_y, angle = rng.uniform(3, 16), rng.uniform(3, 16), rng.uniform(0, np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    wobble = fractal_noise(rng, height, width, 1.5) * rng.uniform(0, 6)
    u = x * np.cos(angle) + y * np.sin(angle) + wobble
    v = y * np.cos(angle) - x * np.sin(angle) + wobble
    warp, weft = np.sin(2 * np.pi * u / pitch_x), np.sin(2 * np.pi * v / pitch_y)
    mixed = np.where(np.sin(np.pi * u / pitch_x) * np.sin(np.pi * v / pitch_y) > 0, warp, weft)
    grain = fractal_noise(rng, height, width, 0.5) - 0.5
    return _between(rng, np.asarray(0.5 + 0.35 * mixed + rng.uniform(0, 0.5) * grain, np.float32))


def _dots(rng: np.random.Generator, height: int, width: int) -> Colour:
    pitch, radius, angle = rng.uniform(8, 60), rng.uniform(0.15, 0.45), rng.uniform(0, np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    u = (x * np.cos(angle) + y * np.sin(angle)) / pitch
    v = (y * np.cos(angle) - x * np.sin(angle)) / pitch
    distance = np.hypot(u - np.rint(u), v - np.rint(v)) * pitch
    share = np.clip(radius * pitch - distance, 0, 1)
    grain = fractal_noise(rng, height, width, rng.uniform(0.2, 1))[..., None] - 0.5
    return np.asarray(_between(rng, np.asarray(share, np.float32)) + rng.uniform(0, 0.2) * grain, np.float32)


def _rings(rng: np.random.Generator, height: int, width: int) -> Colour:
    """Rings around a far centre, warped: wood, lathe marks, sawn faces."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    cy, cx = rng.uniform(-2, 2) * height, rng.uniform(-2, 2) * width
    distance = np.hypot(y - cy, (x - cx) * rng.uniform(0.2, 1))
    warp = fractal_noise(rng, height, width, 1.7) * rng.uniform(0, 30)
    wave = np.sin((distance + warp) * 2 * np.pi / rng.uniform(3, 24))
    grain = fractal_noise(rng, height, width, 0.6) - 0.5
    return _between(rng, np.asarray(0.5 + 0.3 * wave + rng.uniform(0, 0.5) * grain, np.float32))


def _plain(rng: np.random.Generator, height: int, width: int) -> Colour:
    """A nearly plain surface whose grain is faint: sheet metal, plastic, paper."""
    grain = fractal_noise(rng, height, width, rng.uniform(0.0, 1.2)) - 0.5
    grey = rng.uniform(0.15, 0.85) + rng.uniform(0.01, 0.12) * grain
    return np.asarray(grey[..., None] * rng.uniform(0.85, 1.15, 3), np.float32)


def _mixed(rng: np.random.Generator, height: int, width: int) -> Colour:
    """Two textures with a soft or hard seam: edges between materials."""
    first, second = (_MAKERS[int(rng.integers(len(_MAKERS) - 1))](rng, height, width) for _ in range(2))
    seam = fractal_noise(rng, height, width, 2.0)
    share = np.clip((seam - 0.5) * rng.choice([4.0, 60.0]) + 0.5, 0, 1)[..., None]
    return np.asarray(first * share + second * (1 - share), np.float32)


def _marked(rng: np.random.Generator, picture: Colour) -> Colour:
    """Scratches, spots and cracks as part of the picture, so that features come to resolve them."""
    height, width = picture.shape[:2]
    canvas = Image.new("L", (width * 2, height * 2))
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(1, 12))):
        x, y = rng.uniform(0, 2 * width), rng.uniform(0, 2 * height)
        if rng.random() < 0.5:
            steps = rng.normal(0, rng.uniform(2, 16), (int(rng.integers(2, 20)), 2)) + rng.normal(0, 14, 2)
            points = np.cumsum(np.vstack([[x, y], steps]), axis=0)
            draw.line([tuple(point) for point in points], fill=255, width=int(rng.integers(1, 6)))
        else:
            rx, ry = rng.uniform(1, 16, 2)
            draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=255)
    small = canvas.resize((width, height), Image.Resampling.BILINEAR)
    mask = ndimage.gaussian_filter(np.asarray(small, np.float32) / 255, rng.uniform(0, 1.2))
    shade = rng.uniform(-0.5, 0.5) + rng.normal(0, 0.06, 3)
    return np.asarray(picture + mask[..., None] * shade, np.float32)


def _lighting(rng: np.random.Generator, height: int, width: int) -> Grey:
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    slope = rng.normal(0, 0.15, 2)
    light = rng.uniform(0.7, 1.2) + slope[0] * x + slope[1] * y
    if rng.random() < 0.3:
        cy, cx, radius = rng.uniform(-1, 1), rng.uniform(-1, 1), rng.uniform(0.2, 1)
        light = light + rng.uniform(0.1, 0.5) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / radius**2)
    return np.asarray(light, np.float32)


_MAKERS: tuple[Callable[[np.random.Generator, int, int], Colour], ...] = (
    _clouds,
    _brushed,
    _brushed,
    _dead_leaves,
    _cells,
    _weave,
    _dots,
    _rings,
    _plain,
    _plain,
    _mixed,  # last: it draws from those before it
)
