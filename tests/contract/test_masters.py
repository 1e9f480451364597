"""The daily check: master parts get their verdicts through the served path, and their scores are watched."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.errors import FlawscribeError, NetworkFailure, NotReady, UnreadableImage
from tests.contract.serving import Gate, Service, running, wait_until
from tests.networks import grey_picture, png, write_bundle


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Version 2 sees half as dark."""
    write_bundle(tmp_path / "models", "probe", 1)
    write_bundle(tmp_path / "models", "probe", 2, gain=0.5)
    (tmp_path / "models" / "probe" / "active").write_text("1\n")
    with running(tmp_path / "models", records_dir=tmp_path / "records") as running_service:
        yield running_service


def flawed(level: int = 40) -> bytes:
    picture = grey_picture()
    picture[100:120, 100:120] = level
    return png(picture)


def add(service: Service, *pictures: bytes, **fields: str) -> Any:
    files = [("image", ("a.png", picture)) for picture in pictures]
    return service.client.post("/models/probe/masters", data=fields, files=files)


def masters(service: Service) -> Any:
    return service.client.get("/models/probe/masters").json()


def test_a_check_from_the_first_master_part_to_a_model_that_fails_it(service: Service) -> None:
    client = service.client
    assert masters(service) == {"masters": [], "checked_today": False, "passed_today": None, "last_check": None}
    empty = client.post("/models/probe/checks")
    assert (empty.status_code, "no master parts" in empty.json()["detail"]) == (409, True)
    good = add(service, png(grey_picture()), png(grey_picture(level=235)), expected="ok")
    assert [(each["name"], each["expected"]) for each in good.json()] == [("ok 1", "ok"), ("ok 2", "ok")]
    (bad,) = add(service, flawed(), expected="not_ok", name="<b>scratch</b>").json()
    assert client.get(bad["picture"]).content == flawed()
    assert client.get(bad["picture"]).headers["content-type"] == "image/png"

    first = client.post("/models/probe/checks").json()
    assert (first["passed"], first["version"], len(first["results"])) == (True, 1, 3)
    assert [each["change"] for each in first["results"]] == [0, 0, 0]
    told = masters(service)
    assert (told["checked_today"], told["passed_today"], told["last_check"]["id"]) == (True, True, first["id"])
    text = client.get("/metrics").text
    assert 'flawscribe_check_passed{model="probe"} 1.0' in text
    assert 'flawscribe_check_timestamp_seconds{model="probe"}' in text

    client.post("/models/probe/activate", json={"version": 2})
    assert masters(service)["checked_today"] is False  # not this version
    failed = client.post("/models/probe/checks").json()
    assert (failed["passed"], failed["version"]) == (False, 2)
    (wrong,) = [each for each in failed["results"] if not each["passed"]]
    assert (wrong["master_id"], wrong["expected"]) == (bad["id"], "not_ok")
    assert wrong["change"] == 0  # another version's scores are another scale
    assert 'flawscribe_check_passed{model="probe"} 0.0' in client.get("/metrics").text
    assert [each["id"] for each in client.get("/models/probe/checks").json()["checks"]] == [failed["id"], first["id"]]

    assert client.delete(f"/models/probe/masters/{bad['id']}").status_code == 204
    assert client.get(bad["picture"]).status_code == 404
    assert client.post("/models/probe/checks").json()["passed"] is True


def test_a_check_is_no_inspection(service: Service) -> None:
    value = service.state.metrics.registry.get_sample_value

    def counted() -> list[float | None]:
        return [
            value("flawscribe_images_total", {"model": "probe", "verdict": "not_ok"}),
            value("flawscribe_budget_exceeded_total", {"model": "probe"}),
            value("flawscribe_stage_seconds_count", {"stage": "network"}),
            *(
                value(f"flawscribe_{series}_count", {"model": "probe"})
                for series in ("anomaly_score", "image_seconds", "image_budget_share")
            ),
        ]

    add(service, flawed(), expected="not_ok")
    service.client.post("/detect", files={"image": ("a.png", flawed())})
    before = counted()
    assert before[0] == 1
    for _ in range(3):
        assert service.client.post("/models/probe/checks").json()["passed"] is True
    assert counted() == before


def check_series(service: Service) -> dict[str, float]:
    lines = [line for line in service.client.get("/metrics").text.splitlines() if line.startswith("flawscribe_check_")]
    return {line.split("{")[0].removeprefix("flawscribe_check_"): float(line.split()[-1]) for line in lines}


def test_the_series_of_a_check_outlive_a_restart_and_count_from_the_first_master_part(tmp_path: Path) -> None:
    write_bundle(tmp_path / "models", "probe", 1)
    place = {"models_dir": tmp_path / "models", "records_dir": tmp_path / "records"}
    with running(**place) as service:
        assert check_series(service) == {}
        (part,) = add(service, flawed(), expected="ok").json()
        unchecked = check_series(service)
        assert list(unchecked) == ["timestamp_seconds"]
    with running(**place) as service:
        assert check_series(service) == unchecked
        assert service.client.post("/models/probe/checks").json()["passed"] is False
        checked = check_series(service)
        assert (checked["passed"], checked["timestamp_seconds"] > unchecked["timestamp_seconds"]) == (0.0, True)
    with running(**place) as service:
        assert check_series(service) == checked
        service.client.delete(f"/models/probe/masters/{part['id']}")
        assert check_series(service) == {}  # nothing is to be checked, so nothing is missed


def test_the_change_is_counted_from_the_first_check(service: Service) -> None:
    (part,) = add(service, flawed(), expected="not_ok").json()
    first = service.client.post("/models/probe/checks").json()["results"][0]
    network = service.session
    run = network.run
    network.run = lambda windows, wanted="maps": run((windows * 0.9).astype("uint8"), wanted)  # a darker lamp
    try:
        for _ in range(2):
            (later,) = service.client.post("/models/probe/checks").json()["results"]
            assert later["first_score"] == first["score"]
            assert later["change"] == pytest.approx((later["score"] - first["score"]) / 0.5, abs=1e-3)
            assert later["change"] > 0.01
    finally:
        network.run = run
    assert part["id"] == later["master_id"]


def test_what_is_no_master_part(service: Service) -> None:
    for pictures, fields, status, word in (
        ((png(grey_picture()),), {"expected": "good"}, 422, "ok, review, not_ok, undecidable"),
        ((png(grey_picture()),), {}, 422, "expected must be"),
        ((png(grey_picture()),), {"expected": "ok", "label": "x"}, 422, "unknown field label"),
        ((b"no picture",), {"expected": "ok"}, 400, ""),
        ((), {"expected": "ok"}, 415, "multipart"),
    ):
        refused = add(service, *pictures, **fields)
        assert (refused.status_code, word in refused.json()["detail"]) == (status, True), refused.text
    assert add(service, flawed(), expected="not_ok").status_code == 201
    again = add(service, flawed(), expected="ok", name="thread")
    assert (again.status_code, "(thread) is a master part of probe already" in again.json()["detail"]) == (409, True)
    assert service.client.post("/models/nothing/masters", data={"expected": "ok"}).status_code == 404
    assert service.client.delete("/models/probe/masters/nothing").status_code == 404
    assert len(masters(service)["masters"]) == 1


def test_pictures_are_added_all_or_none(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = (flawed(level) for level in (40, 50, 60))
    add(service, third, expected="not_ok")
    audited, series = service.state.records.audit(), check_series(service)
    refused = add(service, first, second, third, expected="not_ok", name="thread")
    assert (refused.status_code, "picture 3 (thread 3) is" in refused.json()["detail"]) == (409, True)
    twice = add(service, first, first, expected="not_ok")
    assert (twice.status_code, "picture 2 (not ok 2) is" in twice.json()["detail"]) == (409, True)
    monkeypatch.setattr("service.records.masters.MOST", 2)
    many = add(service, first, second, expected="not_ok")
    assert (many.status_code, "picture 2 (not ok 2) is one too many" in many.json()["detail"]) == (409, True)
    assert len(masters(service)["masters"]) == 1
    assert (service.state.records.audit(), check_series(service)) == (audited, series)
    monkeypatch.undo()
    added = add(service, first, second, expected="not_ok").json()  # sent again without the third
    assert [each["id"] for each in masters(service)["masters"]][1:] == [each["id"] for each in added]


@contextlib.contextmanager
def busy(service: Service) -> Iterator[Gate]:
    """The queue of one window is full until the gate is opened."""
    gate = Gate(service.session)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        part = pool.submit(service.client.post, "/detect", files={"image": ("a.png", flawed())})
        try:
            assert gate.entered.acquire(timeout=20)
            yield gate
        finally:
            gate.restore()
        assert part.result().status_code == 200


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Service]:
    """A service whose queue holds one window, with one master part."""
    write_bundle(tmp_path / "models", "probe", 1)
    with running(tmp_path / "models", queue_windows=1) as service:
        assert add(service, flawed(), expected="not_ok").status_code == 201
        yield service


def refusal_of_check(service: Service) -> Any:
    """The answer to a check that found out nothing, and of which nothing is kept."""
    refused = service.client.post("/models/probe/checks")
    assert service.client.get("/models/probe/checks").json() == {"checks": []}
    assert "passed" not in check_series(service)
    return refused


def test_a_check_waits_for_room_while_the_line_is_busy(narrow: Service) -> None:
    inspect, tries = narrow.state.inspector.inspect, []

    async def counting(*told: Any, **named: Any) -> Any:
        tries.append(told)
        return await inspect(*told, **named)

    with busy(narrow) as gate, concurrent.futures.ThreadPoolExecutor(1) as pool:
        narrow.state.inspector.inspect = counting  # type: ignore[method-assign]
        check = pool.submit(narrow.client.post, "/models/probe/checks")
        wait_until(lambda: len(tries) > 1 or check.done())
        gate.restore()
        assert (check.result().status_code, check.result().json()["passed"]) == (201, True)


def test_a_check_of_a_queue_that_stays_full_is_refused_and_not_failed(
    narrow: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.masters._PATIENCE_S", 0.3)
    with busy(narrow):
        refused = refusal_of_check(narrow)
    assert (refused.status_code, int(refused.headers["retry-after"]) >= 1) == (429, True)
    assert narrow.state.metrics.registry.get_sample_value("flawscribe_rejected_total", {"reason": "overload"}) == 1


def test_a_check_that_is_not_judged_in_time_is_refused_and_not_failed(
    narrow: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.api.masters._PATIENCE_S", 0.3)
    gate = Gate(narrow.session)
    try:
        assert refusal_of_check(narrow).status_code == 504
    finally:
        gate.restore()
    assert narrow.state.metrics.registry.get_sample_value("flawscribe_rejected_total", {"reason": "deadline"}) == 1


def failing_with(service: Service, error: FlawscribeError) -> None:
    async def inspect(*_: Any, **__: Any) -> Any:
        await asyncio.sleep(0)
        raise error

    service.state.inspector.inspect = inspect  # type: ignore[method-assign]


def test_a_check_that_a_drain_meets_is_refused_and_not_failed(narrow: Service) -> None:
    failing_with(narrow, NotReady("the service is shutting down", retry_after=5))
    assert refusal_of_check(narrow).status_code == 503


def test_a_part_that_is_taken_away_during_a_check_is_left_out(narrow: Service) -> None:
    (other,) = add(narrow, png(grey_picture()), expected="ok").json()
    inspect = narrow.state.inspector.inspect

    async def taking(*told: Any, **named: Any) -> Any:
        await asyncio.to_thread(narrow.state.records.masters.remove("probe", other["id"]).result, 20)
        narrow.state.inspector.inspect = inspect  # type: ignore[method-assign]
        return await inspect(*told, **named)

    narrow.state.inspector.inspect = taking  # type: ignore[method-assign]
    check = narrow.client.post("/models/probe/checks").json()
    assert (check["passed"], [each["name"] for each in check["results"]]) == (True, ["not ok"])


@pytest.mark.parametrize("error", [UnreadableImage("it ends too early"), NetworkFailure("no memory")])
def test_a_part_that_the_model_cannot_judge_fails_the_check(narrow: Service, error: FlawscribeError) -> None:
    failing_with(narrow, error)
    check = narrow.client.post("/models/probe/checks").json()
    (result,) = check["results"]
    assert (check["passed"], result["verdict"], result["error"]) == (False, None, error.detail)
    assert check_series(narrow)["passed"] == 0
