"""A bundle with another reject threshold, as the model's next version: nothing is trained, no other file changes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from service.bundle.folder import next_version, write_bundle
from service.bundle.manifest import FormName, ThresholdRule
from service.bundle.verify import verify
from service.errors import BadRequest


def recalibrated(folder: Path, form_name: FormName, reject: float, reviews: int) -> Path:
    """Write the bundle in `folder` as its model's next version, with `reject` as the threshold of one form.

    `reviews`: how many reviewed pictures the threshold was chosen by. The review threshold stays, or comes down to
    `reject`. Raises BadRequest for a form that the bundle has not, BundleRefused when the folder is not sound.
    """
    verified = verify(folder)
    manifest = verified.manifest
    if form_name not in manifest.forms:
        raise BadRequest(f"{folder} has no form {form_name}; it has {', '.join(manifest.forms)}")
    form = manifest.forms[form_name]
    rule = ThresholdRule(method="reviews", false_reject_rate=form.reject_rule.false_reject_rate, parts=max(1, reviews))
    changed = form.model_copy(
        update={
            "reject_threshold": reject,
            "reject_rule": rule,
            "review_threshold": min(form.review_threshold, reject),
        }
    )
    model_dir = folder.resolve().parent
    following = manifest.model_copy(
        update={
            "version": next_version(model_dir),
            "created_at": datetime.now(UTC),
            "forms": {**manifest.forms, form_name: changed},
            "metrics": {**manifest.metrics, "recalibrated_from": manifest.version},
        }
    )
    return write_bundle(model_dir, following, verified.files)
