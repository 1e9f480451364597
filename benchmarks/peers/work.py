"""What every peer does with a picture: this project's own decoding, windows, session and verdict, so that only serving differs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.load import Bundle, EngineOptions, load_bundle
from service.decision.scale import picture_map
from service.decision.verdict import judge
from service.image.decode import decode_image
from service.image.packing import pack_tiles, packed, unpacked
from service.image.prepare import prepare
from service.types import TilePlan, WindowMaps

BUNDLE, FORM = "PEER_BUNDLE", "PEER_FORM"  # environment of a peer's process
Prepared = tuple[NDArray[np.uint8], TilePlan, tuple[str, ...]]


def load() -> Bundle:
    """The bundle that the environment names, warmed up."""
    options = EngineOptions(os.environ[FORM], "cpu")  # type: ignore[arg-type]
    bundle = load_bundle(Path(os.environ[BUNDLE]), options)
    bundle.session.warm_up()
    return bundle


def prepared(bundle: Bundle, data: bytes) -> Prepared:
    """A picture's windows, its plan, and what the quality gate says."""
    image = decode_image(data, 10**9)
    plan = bundle.plan(*image.size)
    return packed(prepare(image, plan), pack_tiles(plan)), plan, bundle.manifest.quality_gate.reasons(image)


def answer(bundle: Bundle, maps: WindowMaps, plan: TilePlan, reasons: tuple[str, ...]) -> dict[str, Any]:
    """The verdict as JSON."""
    manifest = bundle.manifest
    mapped = picture_map(unpacked(maps, pack_tiles(plan)), plan, manifest.min_flaw_px, bundle.roi, bundle.local)
    verdict = judge(mapped, bundle.thresholds, bundle.form.calibration_scores, reasons)
    return {"verdict": verdict.decision.value, "anomaly_score": verdict.score, "regions": len(verdict.regions)}


def judged(bundle: Bundle, pictures: Sequence[Prepared]) -> list[dict[str, Any]]:
    """A batch of pictures through the network together."""
    wanted = [one for _, plan, _ in pictures for one in pack_tiles(plan).wanted]
    maps = bundle.session.run(np.concatenate([windows for windows, _, _ in pictures]), wanted)
    answers, start = [], 0
    for windows, plan, reasons in pictures:
        stop = start + len(windows)
        logical = None if maps.logical is None else maps.logical[start:stop]
        answers.append(answer(bundle, WindowMaps(maps.structural[start:stop], logical), plan, reasons))
        start = stop
    return answers
