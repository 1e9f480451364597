"""What the bundled model is trusted with: parts of a batch that it never saw, and a flaw anywhere in the picture."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from service.bundle.store import Bundle, EngineOptions, load_bundle
from service.decision.verdict import judge
from service.samples import flaw_types, render
from service.types import Decision, Verdict

BATCH = 4_000  # seeds of parts that no training, calibration or benchmark has
RADIUS = 16  # px
PLACES = [(x, y) for y in (RADIUS, 360, 720 - RADIUS) for x in (RADIUS, 640, 1280 - RADIUS)]
INNER = [(333, 222), (1000, 600)]


@pytest.fixture(scope="module")
def bundle(root: Path) -> Bundle:
    name = root / "models" / "polka-dot"
    return load_bundle(max(path for path in name.iterdir() if path.name.isdecimal()), EngineOptions())


def verdict_of(bundle: Bundle, rgb: np.ndarray) -> Verdict:
    return judge(bundle.anomaly_map(rgb), bundle.thresholds, bundle.form.calibration_scores)


@pytest.mark.parametrize("flaw", flaw_types("polka-dot"))
def test_flaws_of_an_unseen_batch_are_rejected(bundle: Bundle, flaw: str) -> None:
    for seed in (1, 2):
        part = render("polka-dot", np.random.default_rng(BATCH + seed), flaw).image
        assert verdict_of(bundle, part).decision is Decision.NOT_OK


def test_good_parts_of_an_unseen_batch_are_passed(bundle: Bundle) -> None:
    verdicts = [verdict_of(bundle, render("polka-dot", np.random.default_rng(BATCH + seed)).image) for seed in range(8)]
    assert (
        sum(verdict.decision is Decision.NOT_OK for verdict in verdicts) <= 1
    )  # it was calibrated for one in a hundred


@pytest.mark.parametrize("place", [*PLACES, *INNER])
def test_a_strong_flaw_is_found_where_it_is_at_every_border_and_corner(bundle: Bundle, place: tuple[int, int]) -> None:
    x, y = place
    canvas = Image.fromarray(render("polka-dot", np.random.default_rng(BATCH)).image)
    ImageDraw.Draw(canvas).ellipse((x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS), fill=(200, 20, 20))
    verdict = verdict_of(bundle, np.asarray(canvas))
    assert verdict.decision is Decision.NOT_OK
    strongest = max(verdict.regions, key=lambda region: region.peak_score)
    left, top, width, height = strongest.box
    assert left <= x <= left + width
    assert top <= y <= top + height
    # the box of a strong flaw is wider than it is: a cell sees 33 px at working resolution, 94 px of this picture
    assert max(width, height) <= 2 * RADIUS + 94
    scale = bundle.plan(1280, 720).working_width / 1280
    middles = (left + width / 2, top + height / 2), strongest.centroid
    for axis, (spot, size) in enumerate(((x, 1280), (y, 720))):
        if RADIUS < spot < size - RADIUS:  # the picture's border cuts such a box: its middle lies farther in
            assert all(scale * abs(middle[axis] - spot) <= 4 for middle in middles)


def test_what_is_bundled_is_small(root: Path) -> None:
    """What a clone brings: the files of git, or those that the bundled model and the teachers have."""
    listed = ""
    if shutil.which("git") and (root / ".git").exists():
        command = ["git", "-C", str(root), "ls-files", "-z", "models"]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    files = [root / name for name in listed.split("\0") if name]
    files = files or [path for name in ("polka-dot", "teachers") for path in (root / "models" / name).rglob("*")]
    sizes = {path: path.stat().st_size for path in files if path.is_file()}
    assert root / "models" / "teachers" / "pdn-small.safetensors" in sizes
    assert sum(sizes.values()) <= 45_000_000
