from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import Any

import numpy as np
from PIL import Image

from service.api.answers import Judged, json_answer
from service.decision.scale import picture_map
from service.decision.verdict import judge
from service.errors import UnreadableImage
from service.image.prepare import PrepareRecipe, plan_tiles
from service.types import Inspection, ModelIdentity, Thresholds, Timings, WindowMaps

MODEL = ModelIdentity("probe", 3, "int8", "cpu")
EVERYTHING = frozenset({"regions", "map", "mask", "overlay"})


def inspection(level: float, roi: np.ndarray | None = None, reasons: tuple[str, ...] = ()) -> Inspection:
    """A 224x224 picture whose every cell scores `level`."""
    plan = plan_tiles(224, 224, PrepareRecipe(value=224), global_map=False)
    mapped = picture_map(WindowMaps(np.full((1, 56, 56), level, np.float32)), plan, 1.0, roi)
    return Inspection(
        id="i",
        model=MODEL,
        sha256="0" * 64,
        pixels=lambda: np.zeros((224, 224, 3), np.uint8),
        anomaly_map=mapped,
        verdict=judge(mapped, Thresholds(0.3, 0.5), (0.1, 0.2), reasons),
        timings=Timings(decode=1.0, network=2.5),
    )


def answered(*outcomes: Any) -> tuple[list[dict[str, Any]], Any]:
    told = [Judged(outcome) if isinstance(outcome, Inspection) else outcome for outcome in outcomes]
    response = asyncio.run(json_answer("r", told, MODEL, EVERYTHING, "conformal", 0.25))

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is not JSON")

    document = json.loads(bytes(response.body), parse_constant=refuse)
    assert document["model"] == {"name": "probe", "version": 3, "precision": "int8", "provider": "cpu"}
    return document["results"], response


def drawn(result: dict[str, Any], name: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(result[name]["data"]))))


def test_an_empty_region_of_interest_is_answered_with_finite_numbers() -> None:
    (result,), _ = answered(inspection(9.0, roi=np.zeros((224, 224), bool)))
    assert (result["verdict"], result["anomaly_score"], result["regions"]) == ("undecidable", None, [])
    assert result["reasons"]


def test_an_undecidable_picture_has_no_region_in_any_of_its_pictures() -> None:
    (result,), _ = answered(inspection(9.0, reasons=("too dark",)))
    assert (result["verdict"], result["reasons"], result["is_anomalous"]) == ("undecidable", ["too dark"], False)
    assert not drawn(result, "mask").any()
    assert not (drawn(result, "overlay") == 255).all(axis=-1).any()


def test_scores_are_not_clamped() -> None:
    (result,), _ = answered(inspection(123.5))
    assert result["anomaly_score"] == 123.5
    assert result["is_anomalous"] is True
    assert drawn(result, "mask").all()


def test_a_failed_picture_has_its_problem_in_its_place_and_stages_are_summed() -> None:
    results, response = answered(inspection(0.1), UnreadableImage("torn \ud800"), inspection(0.4))
    assert [result.get("verdict") for result in results] == ["ok", None, "review"]
    assert results[1]["error"]["title"] == "Unreadable image"
    assert response.headers["server-timing"].startswith("decode;dur=2.00")
    assert "network;dur=5.00" in response.headers["server-timing"]
    assert response.headers["server-timing"].endswith("budget;dur=500.00")  # two pictures of a window each
