from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.kill9 import run, run_service


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path, database_url: str | None) -> None:
    result = run(tmp_path, rounds=3, url=database_url)
    assert (result.rounds, result.acknowledged > 0) == (3, True)
    assert (result.lost, result.lost_pictures, result.lost_reviews, result.half_written) == (0, 0, 0, 0)
    assert result.integrity in ("ok", "not checked on PostgreSQL")


@pytest.mark.slow
def test_what_a_service_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    result = run_service(tmp_path, rounds=2)
    assert (result.rounds, result.acknowledged > 0, result.reviews > 0) == (2, True, True)
    assert (result.lost, result.lost_pictures, result.lost_reviews, result.half_written) == (0, 0, 0, 0)
    assert result.integrity == "ok"
