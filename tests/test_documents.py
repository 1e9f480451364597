"""What is written down is true: README's table and commands, openapi.json."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.documents import openapi_text, readme_with_table
from tests.example import PART, ask


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


def test_the_bundled_model_answers_as_the_readme_shows(root: Path) -> None:
    text = (root / "README.md").read_text()
    assert text.count(PART) == 3
    shown = json.loads(text.split("```json\n")[1].split("```")[0])
    answer, overlay = ask()
    (told,), (given,) = shown["results"], answer["results"]
    assert set(told) == set(given)
    assert set(told["regions"][0]) == set(given["regions"][0])
    assert told["verdict"] == given["verdict"] == "not_ok"
    assert (told["image"]["width"], told["image"]["height"]) == (given["image"]["width"], given["image"]["height"])
    assert shown["model"]["name"] == answer["model"]["name"]
    assert overlay.startswith(b"\x89PNG")


def test_readme_links_lead_somewhere(root: Path) -> None:
    text = (root / "README.md").read_text()
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target]
    assert targets
    missing = [target for target in targets if not (root / target).exists()]
    assert not missing


def test_serving_needs_no_torch() -> None:
    code = "import sys, service.api.app, service.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
