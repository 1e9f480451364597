"""A step of each recipe beside the reference way."""

from __future__ import annotations

import pytest

from service.bench.train import measure

pytestmark = pytest.mark.slow


def test_each_way_takes_its_steps_on_the_same_pictures() -> None:
    result = measure(rounds=1)
    rows = {row["way"]: row for row in result["rows"]}
    assert list(rows) == ["default", "paper", "reference"]
    assert rows["reference"]["ratio_to_reference"] == 1
    # what caching the teacher's features saves, counted, not timed: the reference runs the teacher twice a step
    assert rows["paper"]["gflop_per_step"] < 0.85 * rows["reference"]["gflop_per_step"]
    assert all(row["median_ms"] > 0 and 0 < row["share_of_limit"] < 2 for row in rows.values())
    assert set(result["matrix_limit_gflop_per_s"]) == {"float32", "bfloat16"}
    parts = {row.pop("part"): row for row in result["profile"]}
    assert list(parts) == ["data", "teacher", "student", "autoencoder", "backward", "optimiser", "rest"]
    assert all(row["default_ms"] > 0 and row["reference_ms"] > 0 for row in parts.values())
    for way in ("default", "reference"):
        steps = sum(row[f"{way}_ms"] for row in parts.values())
        assert sum(row[f"{way}_convolutions_ms"] for row in parts.values()) > 0.3 * steps
        assert parts["backward"][f"{way}_ms"] > parts["optimiser"][f"{way}_ms"]
