"""A bundle with other thresholds, as the model's next version: nothing is trained, no other file changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from service.bundle.conformal import limits, part_scores, rate_above
from service.bundle.folder import next_version, write_bundle
from service.bundle.load import EngineOptions, load_bundle
from service.bundle.manifest import Form, FormName, Manifest, ThresholdRule
from service.bundle.verify import VerifiedFolder, verify
from service.errors import BadRequest, NoSuchRecord, RecordsFailure, TooLarge, UnreadableImage
from service.records.good_parts import GoodParts

LEAST_PARTS = 20  # fewer good parts tell less of their scores than any training does


def with_threshold(folder: Path, form_name: FormName, reject: float, reviews: int) -> Path:
    """Write the bundle in `folder` as its model's next version, with `reject` as the threshold of one form.

    `reviews`: how many reviewed pictures the threshold was chosen by. Its false reject rate is what the calibration scores say
    of it. The review threshold stays, or comes down to `reject` by the same rule. Raises BadRequest for a form that the bundle
    has not and a number that is not finite, BundleRefused when the folder is not sound.
    """
    if not math.isfinite(reject):
        raise BadRequest(f"a threshold must be a finite number, not {reject}")
    verified = verify(folder)
    form = _form(verified.manifest, form_name, folder)
    rule = ThresholdRule(
        method="reviews", false_reject_rate=rate_above(form.calibration_scores, reject), parts=max(1, reviews)
    )
    update: dict[str, Any] = {"reject_threshold": reject, "reject_rule": rule}
    if reject < form.review_threshold:
        update |= {"review_threshold": reject, "review_rule": rule}
    changed = form.model_copy(update=update)
    return _next(folder, verified, {form_name: changed}, {})


def recalibrated(folder: Path, seen: Mapping[FormName, GoodParts], false_reject_rate: float | None = None) -> Path:
    """Write the bundle in `folder` as its model's next version, calibrated anew by good parts of production.

    Thresholds and calibration scores of the forms in `seen`, and so the p-values, come from these parts as training's come from
    held-out ones; other forms keep theirs. `false_reject_rate`: 0 to 0.5; None: each form's own.

    Raises BadRequest for a form that the bundle has not or with fewer than 20 parts, BundleRefused when the folder is not sound.
    """
    verified = verify(folder)
    forms: dict[FormName, Form] = {}
    told: dict[str, Any] = {}
    for name, good in seen.items():
        form = _form(verified.manifest, name, folder)
        pictures = good.pictures
        scores = tuple(part_scores([each.part for each in pictures], [each.score for each in pictures]).values())
        if len(scores) < LEAST_PARTS:
            raise BadRequest(f"{len(scores)} good parts of form {name} are on record; {LEAST_PARTS} are the least")
        found = limits(scores, false_reject_rate or min(0.5, form.reject_rule.false_reject_rate))
        forms[name] = form.model_copy(
            update={
                "review_threshold": found.review,
                "reject_threshold": found.reject,
                "review_rule": found.review_rule,
                "reject_rule": found.reject_rule,
                "calibration_scores": scores,
            }
        )
        told[name] = {
            "parts": len(scores),
            "pictures": len(pictures),
            "reviewed": good.reviewed,
            "rescored": good.rescored,
            "from": pictures[0].inspected_at.isoformat(),
            "to": pictures[-1].inspected_at.isoformat(),
        }
    return _next(folder, verified, forms, {"recalibration": told})


def rescored(
    folder: Path, form_name: FormName, good: GoodParts, kept: Callable[[str], bytes], max_pixels: int
) -> GoodParts:
    """The same good parts with the scores that another form of the bundle in `folder` gives their pictures, as it serves here.

    `kept`: gives a picture by its sha256 or raises NoSuchRecord. A part is left out whole when one of its pictures is not kept or
    cannot be read: without it the part's highest score is unknown.

    Raises BundleRefused where this machine does not run the form or the folder is not sound.
    """
    bundle = load_bundle(folder, EngineOptions(form_name))
    found: dict[str, float] = {}
    lost: set[str] = set()
    for picture in good.pictures:
        if picture.sha256 in found or picture.part in lost:
            continue
        try:
            found[picture.sha256] = bundle.anomaly_map_of_file(kept(picture.sha256), max_pixels).score
        except (NoSuchRecord, RecordsFailure, UnreadableImage, TooLarge):
            lost.add(picture.part)
    whole = [picture for picture in good.pictures if picture.part not in lost]
    pictures = tuple(replace(picture, score=found[picture.sha256]) for picture in whole)
    return GoodParts(pictures, good.open, rescored=True)


def _form(manifest: Manifest, name: FormName, folder: Path) -> Form:
    if name not in manifest.forms:
        raise BadRequest(f"{folder} has no form {name}; it has {', '.join(manifest.forms)}")
    return manifest.forms[name]


def _next(folder: Path, verified: VerifiedFolder, forms: Mapping[FormName, Form], metrics: Mapping[str, Any]) -> Path:
    manifest = verified.manifest
    model_dir = folder.resolve().parent
    following = manifest.model_copy(
        update={
            "version": next_version(model_dir),
            "created_at": datetime.now(UTC),
            "forms": {**manifest.forms, **forms},
            "metrics": {**manifest.metrics, **metrics, "recalibrated_from": manifest.version},
        }
    )
    return write_bundle(model_dir, following, verified.files)
