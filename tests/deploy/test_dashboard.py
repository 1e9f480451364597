"""The Grafana dashboard: every expression is asked of a real Prometheus that scrapes a real service under load."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api.app import watch_drift
from tests.contract.serving import Service, running
from tests.deploy.prometheus_server import NoPrometheus, Prometheus, running_prometheus
from tests.llm_server import LlmServer, answer_json, completion
from tests.networks import grey_picture, png, write_bundle

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "flawscribe.json"
CARD = "product: probe\nname: grey plate\nnormal: An even grey plate.\nmay_leave: true\n"
# as Grafana fills them in, for a scrape interval of a quarter of a second
VARIABLES = {"$__rate_interval": "5s", "$__range": "10s", "$model": ".*", "$instance": ".*"}


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def expressions() -> list[tuple[str, str]]:
    """Title and expression of every query, with the variables filled in."""
    return [(panel["title"], filled(target["expr"])) for panel in panels() for target in panel["targets"]]


def filled(expression: str) -> str:
    """The expression with the variables filled in."""
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    return expression


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service with an LLM that answers and costs something."""
    write_bundle(tmp_path / "models", "probe", 1)
    write_bundle(tmp_path / "models", "probe", 2)
    (tmp_path / "models" / "probe" / "active").write_text("1\n")
    (tmp_path / "products").mkdir()
    (tmp_path / "products" / "probe.yaml").write_text(CARD)
    with LlmServer() as llm:
        llm.script(completion(answer_json(regions=1)))
        words = {"llm_base_url": llm.base_url, "llm_model": "vision", "llm_price_in": 1.0, "llm_price_out": 2.0}
        place = {"products_dir": tmp_path / "products", "background_nice": 0}
        with running(tmp_path / "models", **place, **words) as running_service:
            yield running_service


class Load:
    """Good and flawed pictures, with and without words, until it is stopped; each flaw elsewhere, so that no words are kept."""

    def __init__(self, url: str) -> None:
        self._url, self._stop = url, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as client:
            place = 0
            while not self._stop.is_set():
                client.post("/detect", files={"image": ("good.png", png(grey_picture()))})
                picture = grey_picture()
                place = (place + 3) % 150
                picture[20:60, 20 + place : 60 + place] = 0
                client.post("/classify", files={"image": ("flawed.png", png(picture))})


def test_no_panel_is_empty_and_none_errs(service: Service) -> None:
    try:
        with running_prometheus(service.url.removeprefix("http://")) as prometheus, Load(service.url):
            do_what_is_done_seldom(service)
            missing = wait_for_numbers(prometheus, seconds=60)
            budgets = [float(prometheus.ask(query)[0]["value"][1]) for query in budget_lines()]
    except NoPrometheus as reason:
        pytest.skip(str(reason))
    assert not missing
    assert budgets == pytest.approx([0.00625, 0.00625])  # pictures of one window: a picture's is a window's


def budget_lines() -> list[str]:
    """What draws the budget of a picture and that of a window."""
    asked = {
        (panel["title"], target["legendFormat"]): target["expr"] for panel in panels() for target in panel["targets"]
    }
    lines = asked["Time by stage", "budget"], asked["Network time of a window", "{{model}} budget"]
    return [filled(line) for line in lines]


def do_what_is_done_seldom(service: Service) -> None:
    """Drift is looked for from a minute after start, master parts are checked once a day, candidates run in shadow now and then."""
    watch_drift(service.state, datetime.now(UTC))
    good = {"image": ("good.png", png(grey_picture()))}
    assert service.client.post("/models/probe/masters", data={"expected": "ok"}, files=good).status_code == 201
    assert service.client.post("/models/probe/checks").status_code == 201
    assert service.client.post("/models/probe/shadow", json={"version": 2}).status_code == 201


def wait_for_numbers(prometheus: Prometheus, seconds: float) -> list[tuple[str, str]]:
    """The queries that had no number until the time was over; one that errs fails at once."""
    end = time.monotonic() + seconds
    missing = expressions()
    while missing and time.monotonic() < end:
        missing = [query for query in missing if not has_number(prometheus.ask(query[1]))]
        time.sleep(0.25)
    return missing


def has_number(vector: list[dict[str, Any]]) -> bool:
    return any(not math.isnan(float(sample["value"][1])) for sample in vector)


def test_every_panel_says_what_it_shows_and_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["title"]
        assert panel["datasource"]["uid"] == "prometheus"
        place = panel["gridPos"]
        cells = {(x + place["x"], y + place["y"]) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    identities = [panel["id"] for panel in panels()]
    assert len(identities) == len(set(identities))
