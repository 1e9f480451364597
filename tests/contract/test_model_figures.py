"""What a person weighs before changing a model: thresholds, drift, latency, rollback, a version with another threshold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.api.access import create_key
from tests.contract.serving import Service, running
from tests.networks import grey_picture, png, write_bundle


def dark(level: int) -> bytes:
    """A part with a patch whose darkness is its score."""
    picture = grey_picture()
    picture[100:130, 100:130] = level
    return png(picture)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that has judged 60 good pictures, and two flawed ones that were reviewed, one of them overkill."""
    folder = tmp_path_factory.mktemp("models")
    write_bundle(folder, "probe", 1)
    with running(folder) as service:
        good = [("image", ("a.png", png(grey_picture(level=230 + k % 10)))) for k in range(20)]
        for _ in range(3):
            assert service.client.post("/detect", files=good).status_code == 200
        for level, said in ((60, "right"), (90, "overkill")):
            answer = service.client.post("/detect", files={"image": ("a.png", dark(level))}).json()
            (result,) = answer["results"]
            assert result["verdict"] == "not_ok"
            reviewed = service.client.post(f"/inspections/{result['id']}/review", json={"verdict": said, "who": "Kim"})
            assert reviewed.status_code in (200, 201), reviewed.text
        yield service


def shown(service: Service, what: str, **query: Any) -> Any:
    response = service.client.get(f"/models/probe/{what}", params=query)
    assert response.status_code == 200, response.text
    return response.json()


def test_thresholds_say_overkill_and_escapes(judged: Service) -> None:
    told = shown(judged, "thresholds", at=0.7)
    assert (told["version"], told["form"], told["review"], told["reject"]) == (1, "float32", 0.3, 0.5)
    assert len(told["calibration_scores"]) == 9
    assert (len(told["good_scores"]), len(told["flawed_scores"])) == (1, 1)
    assert told["present"]["overkill"]["count"] == 1
    assert told["present"]["escape"]["count"] == 0
    assert told["present"]["calibration_overkill"] == {
        "count": 0,
        "total": 9,
        "value": 0.0,
        "low": 0.0,
        "high": pytest.approx(0.3363, abs=1e-4),
    }
    assert told["good_scores"][0] < 0.7 < told["flawed_scores"][0]
    assert (told["at"]["overkill"]["count"], told["at"]["escape"]["count"]) == (0, 0)
    assert told["suggested"] is None
    assert any("only 1 flawed" in caution for caution in told["cautions"])
    assert shown(judged, "thresholds", most_escapes=0.99)["suggested"]["overkill"]["count"] == 0


def test_another_threshold_is_a_version_that_waits_to_be_activated(judged: Service) -> None:
    written = judged.client.post("/models/probe/thresholds", json={"version": 1, "form": "float32", "reject": 0.7})
    assert (written.status_code, written.json()) == (201, {"name": "probe", "version": 2})
    assert judged.client.get("/models/probe").json()["active_version"] == 1
    assert (judged.state.store.models_dir / "probe" / "active").read_text() == "1\n"
    picture = {"image": ("a.png", dark(90))}
    verdicts = [
        judged.client.post("/detect", params={"version": version}, files=picture).json()["results"][0]["verdict"]
        for version in (1, 2)
    ]
    assert verdicts == ["not_ok", "review"]
    assert judged.client.post("/models/probe/rollback").status_code == 409
    assert judged.client.post("/models/probe/activate", json={"version": 2}).json()["previous_version"] == 1
    rolled = judged.client.post("/models/probe/rollback").json()
    assert (rolled["active_version"], rolled["previous_version"]) == (1, 2)
    for wrong in ({"version": 1, "form": "int8", "reject": 0.7}, {"version": 1, "form": "float32"}):
        assert judged.client.post("/models/probe/thresholds", json=wrong).status_code in (400, 422)


def test_drift_and_latency_of_recorded_pictures(judged: Service) -> None:
    drift = shown(judged, "drift", days=3)
    assert len(drift["days"]) == 3
    assert [day["count"] for day in drift["days"]][:2] == [0, 0]
    assert drift["last_day"] == drift["days"][-1]
    assert drift["last_day"]["count"] >= 60
    assert drift["last_day"]["word"] in ("steady", "shifting", "drifted")
    latency = shown(judged, "latency")
    assert latency["pictures"] >= 62
    assert 0 < latency["p50_ms"] <= latency["p99_ms"]
    assert latency["p50_ms_per_window"] == latency["p50_ms"]  # one window a picture
    assert latency["budget_ms_per_window"] == pytest.approx(6.25)
    assert 0 <= latency["over_budget"] <= 1


def test_wrong_questions(judged: Service) -> None:
    client = judged.client
    for what, query, status in (
        ("thresholds", {"form": "int8"}, 422),
        ("thresholds", {"most_escapes": 2}, 422),
        ("thresholds", {"limit": 2}, 422),
        ("thresholds", {"version": 9}, 404),
        ("drift", {"days": 0}, 422),
        ("latency", {"version": 9}, 404),
        ("masters", {"version": 1}, 422),
    ):
        assert client.get(f"/models/probe/{what}", params=query).status_code == status, (what, query)
    assert client.get("/models/nothing/thresholds").status_code == 404


def test_changes_need_admin(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", "probe", 1)
    keys = tmp_path / "keys.json"
    _, detector = create_key(keys, ("detect",))
    _, reviewer = create_key(keys, ("review",))
    with running(tmp_path / "models", keys_file=keys) as service:
        for method, path, lowest in (
            ("GET", "thresholds", "review"),
            ("GET", "drift", "review"),
            ("GET", "latency", "review"),
            ("GET", "masters", "review"),
            ("GET", "checks", "review"),
            ("POST", "checks", "review"),
            ("GET", "shadow", "review"),
            ("POST", "thresholds", "admin"),
            ("POST", "rollback", "admin"),
            ("POST", "masters", "admin"),
            ("DELETE", "masters/x", "admin"),
            ("POST", "shadow", "admin"),
            ("DELETE", "shadow", "admin"),
        ):
            codes = [
                service.client.request(method, f"/models/probe/{path}", headers={"x-api-key": key}).status_code
                for key in (detector, reviewer)
            ]
            assert codes[0] == 403, path
            assert (codes[1] == 403) == (lowest == "admin"), path
