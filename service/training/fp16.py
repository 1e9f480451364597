"""The fp16 form, which GPUs serve best, for a bundle that was trained without it: nothing is trained, no other file changes.

Its thresholds are set by the parts that set those of the other forms, or by others that the network did not learn from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.bundle.conformal import part_scores
from service.bundle.folder import next_version, write_bundle
from service.bundle.load import Bundle, EngineOptions, load_bundle, score_agrees
from service.bundle.manifest import FORM_FILES, Form, Golden, Manifest
from service.bundle.verify import MAX_PIXELS, VerifiedFolder, digest, read_manifest, verify
from service.errors import BadRequest, BundleRefused
from service.image.decode import decode
from service.image.prepare import prepare
from service.training.data import MAX_PIXELS as LARGEST_PICTURE
from service.training.data import NormalImage, split_folder
from service.training.export import parity_with
from service.training.forms import calibrated_form, open_form
from service.training.quantize import halve

_PARITY_WINDOWS = 9
_BATCHES, _GPU_BATCHES = (1, 3), (1, 3, 7)


def held_out_of(folder: Path, data: Path) -> tuple[NormalImage, ...]:
    """The images of `data` that set the thresholds of the bundle in `folder`, which was trained on just these pictures.

    Raises BadRequest for pictures that it was not trained on.
    """
    manifest = read_manifest(folder)
    splits = split_folder(data, manifest.training.get("group_by"), int(manifest.training.get("seed", 0)))
    if splits.fingerprint() != manifest.data.get("fingerprint"):
        raise BadRequest(
            f"{data} is not the folder that {manifest.name} {manifest.version} was trained on: names or contents differ. Good "
            "parts that it did not learn from will do: name their folder by --held-out"
        )
    return splits.calibration


def with_fp16(
    folder: Path,
    images: Sequence[NormalImage],
    models_dir: Path | None = None,
    done: Callable[[int], None] | None = None,
) -> Path:
    """Write the bundle in `folder` as its model's next version (below `models_dir` if given) with the fp16 form added, its
    thresholds set by `images` of good parts that the network did not learn from. `done` is told after each how many are judged.

    Raises BadRequest when it has that form, BundleRefused when it is not sound, or fp16 does not give float32's scores.
    """
    verified = verify(folder)
    manifest = verified.manifest
    if "fp16" in manifest.forms:
        raise BadRequest(f"{folder} has the fp16 form already")
    network = halve(verified.files[FORM_FILES["float32"]])
    exact = load_bundle(folder, EngineOptions("float32"))
    half = replace(exact, session=open_form(network, "fp16"), form_name="fp16", network_bytes=len(network))
    scores = []
    for count, image in enumerate(images, 1):
        scores.append(_agreed(exact, half, image.path))
        if done is not None:
            done(count)
    windows = _windows(exact, verified)
    on_gpu = half.session.provider == "cuda"
    parity = parity_with(exact.session.run(windows), half.session, windows, _GPU_BATCHES if on_gpu else _BATCHES)
    rate = min(0.5, manifest.forms["float32"].reject_rule.false_reject_rate)
    by_part = part_scores([image.part for image in images], scores)
    typical = decode(verified.files[manifest.golden[0].file], MAX_PIXELS)
    plan = exact.plan(typical.shape[1], typical.shape[0])
    form = calibrated_form("fp16", network, half.session, parity, prepare(typical, plan), plan, by_part, rate).form
    files = {**verified.files, FORM_FILES["fp16"]: network}
    model_dir = (models_dir or folder.resolve().parent.parent) / manifest.name
    return write_bundle(model_dir, _next(half, verified, form, files, next_version(model_dir)), files)


def _agreed(exact: Bundle, half: Bundle, path: Path) -> float:
    """The picture's score by `half`. Raises BundleRefused when it is not that of `exact`, by the rule of golden pictures."""
    data = path.read_bytes()
    expected, score = (bundle.anomaly_map_of_file(data, LARGEST_PICTURE).score for bundle in (exact, half))
    if not score_agrees(score, expected, exact.manifest.golden_tolerance):
        raise BundleRefused(f"in fp16 {path} scores {score:.4g}, in float32 {expected:.4g}: this network needs float32")
    return score


def _windows(bundle: Bundle, verified: VerifiedFolder) -> NDArray[np.uint8]:
    """Windows uint8 [n,256,256,3] of the golden pictures, a few."""
    pictures = [decode(verified.files[golden.file], MAX_PIXELS) for golden in bundle.manifest.golden]
    return np.concatenate([prepare(rgb, bundle.plan(rgb.shape[1], rgb.shape[0])) for rgb in pictures])[:_PARITY_WINDOWS]


def _next(half: Bundle, verified: VerifiedFolder, form: Form, files: dict[str, bytes], version: int) -> Manifest:
    """The manifest of that version, with the form and its golden scores."""
    manifest = verified.manifest
    golden = [
        Golden(
            file=each.file,
            scores={**each.scores, "fp16": half.anomaly_map(decode(verified.files[each.file], MAX_PIXELS)).score},
        )
        for each in manifest.golden
    ]
    told: dict[str, Any] = {"fp16_added": {"to_version": manifest.version, "parts": len(form.calibration_scores)}}
    return manifest.model_copy(
        update={
            "version": version,
            "created_at": datetime.now(UTC),
            "forms": {**manifest.forms, "fp16": form},
            "golden": tuple(golden),
            "metrics": {**manifest.metrics, **told},
            "files": digest(files),
        }
    )
