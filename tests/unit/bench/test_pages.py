"""What the pages show is what the result files hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import accuracy, performance, recipes


@pytest.mark.parametrize(
    ("page", "with_tables"),
    [
        ("docs/performance.md", performance.with_tables),
        ("docs/accuracy.md", accuracy.with_tables),
        ("docs/accuracy.md", recipes.with_tables),
    ],
)
def test_tables_are_those_of_the_result_files(
    page: str, with_tables: Callable[[str], str], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    text = (root / page).read_text()
    assert with_tables(text) == text, f"{page} is older than its results: see benchmarks/{Path(page).stem}.py"
