"""What a training may be asked over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from service.trainings.order import Order


@pytest.mark.parametrize("name", ["min_flaw_px", "min_flaw_mm", "mm_per_pixel"])
@pytest.mark.parametrize("value", [0, -1, "0", "nan", float("nan"), float("inf"), "-inf"])
def test_lengths_and_scales_are_above_zero_and_finite(name: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=name):
        Order.model_validate({"name": "x", "mm_per_pixel": 0.5, name: value})


def test_an_order_in_mm_is_given_as_such() -> None:
    options = Order.model_validate({"name": "x", "min_flaw_mm": "0.5", "mm_per_pixel": 0.25}).options()
    assert {"--min-flaw-mm=0.5", "--mm-per-pixel=0.25"} <= set(options)
