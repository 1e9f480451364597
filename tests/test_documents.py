"""What is written down is true: README's table and commands, openapi.json."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.documents import openapi_text, readme_with_table


def test_openapi_is_as_committed(root: Path) -> None:
    assert (root / "openapi.json").read_text() == openapi_text(), "run `make openapi` and review the change"


def test_readme_lists_the_settings(root: Path) -> None:
    text = (root / "README.md").read_text()
    assert "FLAWSCRIBE_BUDGET_MS" in text
    assert readme_with_table(text) == text, "run `make openapi`"


def test_readme_names_only_commands_that_exist(root: Path) -> None:
    text = (root / "README.md").read_text()
    listed = subprocess.run(
        [sys.executable, "-m", "service", "--help"], capture_output=True, text=True, check=True
    ).stdout
    named = set(re.findall(r"flawscribe ([a-z]+)", text))
    assert named
    for name in named:
        assert re.search(rf"\b{name}\b", listed), f"README names `flawscribe {name}`"


def test_readme_links_lead_somewhere(root: Path) -> None:
    text = (root / "README.md").read_text()
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    assert targets
    missing = [target for target in targets if not (root / target).exists()]
    assert not missing


def test_serving_needs_no_torch() -> None:
    code = "import sys, service.api.app, service.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
