"""Prometheus' rules: sound, tested one by one, and about series that the service has."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.metrics import Metrics
from tests.deploy.test_dashboard import expressions

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
SUFFIXES = ("", "_total", "_bucket", "_sum", "_count", "_info")


def rules(file: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / file).read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize(
    "words", [["check", "config", "prometheus.yml"], ["test", "rules", "alerts_test.yml"]], ids=" ".join
)
def test_promtool_finds_nothing(words: list[str]) -> None:
    """Checks configuration and rules, and runs their unit tests."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run([promtool, *words], cwd=FOLDER, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_to_fire_and_says_what_to_do() -> None:
    cases = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    tests = [test for case in cases for test in case["alert_rule_test"]]
    firing = {test["alertname"] for test in tests if test.get("exp_alerts")}
    alerts = rules("alerts.yml")
    assert firing == {alert["alert"] for alert in alerts}
    for alert in alerts:
        assert alert["labels"]["severity"] in ("critical", "warning", "info")
        assert alert["annotations"]["summary"]


def test_what_dashboard_and_alerts_ask_for_exists() -> None:
    known = {rule["record"] for rule in rules("rules.yml")}
    for family in Metrics(1.0).registry.collect():
        known |= {family.name + suffix for suffix in SUFFIXES}
    asked = [rule["expr"] for rule in rules("rules.yml") + rules("alerts.yml")] + [query for _, query in expressions()]
    names = {
        name
        for text in asked
        for name in re.findall(r"\b(?:flawscribe|process)[a-z_0-9:]*", re.sub(r'"[^"]*"', "", text))
    }
    assert len(names) > 20
    assert names - known == set()
