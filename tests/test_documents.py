"""What is written down is true: README's table, openapi.json, docs/api.md, and whatever the pages name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from service.cli import command_line
from service.errors import FlawscribeError
from service.metrics import Metrics
from service.settings import PREFIX, Settings
from tests.documents import API_PAGE, blocks, openapi, openapi_text, pages, readme_with_table
from tests.example import PART, ask
from tests.reference import anchor, reference_page

# operations of other services that a page speaks of
_OF_OTHERS = {("POST", "/2020-11-20/projects/{}/models/{}/detect")}


def test_openapi_is_as_committed(root: Path) -> None:
    assert (root / "openapi.json").read_text() == openapi_text(), "run `make openapi` and review the change"


def test_readme_lists_the_settings(root: Path) -> None:
    text = (root / "README.md").read_text()
    assert "FLAWSCRIBE_BUDGET_MS" in text
    assert readme_with_table(text) == text, "run `make openapi`"


def test_the_api_page_is_of_this_service() -> None:
    assert API_PAGE.read_text() == reference_page(openapi()), "run `make openapi`"


def test_every_answer_says_what_its_body_is() -> None:
    bare = {
        f"{method} {path}: {code}"
        for path, operations in openapi()["paths"].items()
        for method, operation in operations.items()
        for code, answer in operation["responses"].items()
        if code.startswith("2") and code != "204" and not answer.get("content")
    }
    assert not bare


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_commands_stand_in_fenced_blocks_which_are_run(page: Path) -> None:
    outside = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"^(?: {4}|\t)(?:flawscribe|curl|make|docker|python) .*", outside, re.MULTILINE)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_what_a_page_names_exists(page: Path) -> None:
    """Settings, commands with their flags, operations of the API, metrics, problem types."""
    text = page.read_text()
    settings = {PREFIX + name.upper() for name in Settings.model_fields}
    assert set(re.findall(r"\bFLAWSCRIBE_[A-Z][A-Z_]*[A-Z]\b", text)) <= settings
    problems = {each.type for each in _subclasses(FlawscribeError)}
    assert set(re.findall(r"/problems/[a-z-]+", text)) <= problems
    assert set(re.findall(r"\bflawscribe_[a-z_]+\b", text)) <= _series()
    operations = {(method.upper(), _shape(path)) for path, each in openapi()["paths"].items() for method in each}
    named = {(method, _shape(path)) for method, path in re.findall(r"`(GET|POST|DELETE) (/[^`\s?]*)", text)}
    assert named - operations <= _OF_OTHERS


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_commands_take_the_flags_that_a_page_gives_them(page: Path) -> None:
    wrong = []
    for line in _command_lines(page):
        words = line.split()
        command: Any = typer.main.get_command(command_line())
        while words and (found := getattr(command, "commands", {}).get(words[0])) is not None:
            command, words = found, words[1:]
        flags = {flag for each in command.params for flag in (*each.opts, *each.secondary_opts)} | {"--help"}
        if (getattr(command, "commands", None) and words) or {
            word.partition("=")[0] for word in words if word.startswith("--")
        } - flags:
            wrong.append(line)
    assert not wrong


def test_the_map_of_the_documents_has_them_all(root: Path) -> None:
    text = (root / "docs" / "index.md").read_text()
    assert {page.name for page in pages()[1:]} - {"index.md"} <= set(re.findall(r"\(([a-z-]+\.md)", text))


def test_every_problem_has_its_line_in_the_table_of_troubles(root: Path) -> None:
    text = (root / "docs" / "operate.md").read_text()
    rows = dict(re.findall(r"^\| `(/problems/[a-z-]+)` \| (\d+) ", text, re.MULTILINE))
    known = {each.type: str(each.status) for each in _subclasses(FlawscribeError) if each.type != "about:blank"}
    assert rows == known


def test_the_bundled_model_answers_as_the_readme_shows(root: Path) -> None:
    text = (root / "README.md").read_text()
    assert text.count(PART) == 3
    shown = json.loads(text.split("```json\n")[1].split("```")[0])
    answer, overlay, worded = ask()
    (told,), (given,) = shown["results"], answer["results"]
    assert set(told) == set(given)
    assert set(told["regions"][0]) == set(given["regions"][0])
    assert told["verdict"] == given["verdict"] == "not_ok"
    assert (told["image"]["width"], told["image"]["height"]) == (given["image"]["width"], given["image"]["height"])
    assert shown["model"]["name"] == answer["model"]["name"]
    assert overlay.startswith(b"\x89PNG")
    quick = json.loads((root / "docs" / "quick-start.md").read_text().split("```json\n")[1].split("```")[0])
    (words,), (said,) = quick["results"], worded["results"]
    assert words["classification"].items() <= said["classification"].items()
    precision = answer["model"]["precision"]
    for page, shown_result, fresh in ((shown, told, given), (quick, words, said)):
        if page["model"]["precision"] == precision:  # another processor may serve another form, with limits of its own
            assert shown_result["threshold"] == pytest.approx(fresh["threshold"], abs=1e-4)
            assert shown_result["anomaly_score"] == pytest.approx(fresh["anomaly_score"], rel=0.02)


def test_serving_needs_no_torch() -> None:
    code = "import sys, service.api.app, service.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def _subclasses(kind: type[FlawscribeError]) -> set[type[FlawscribeError]]:
    return {kind}.union(*map(_subclasses, kind.__subclasses__()))


@cache
def _series() -> set[str]:
    """The names of all series, and of those that the rules of deploy/prometheus record."""
    families = list(Metrics(1.0).registry.collect())
    ends = ("", "_total", "_bucket", "_count", "_sum", "_info")
    return {family.name + end for family in families for end in ends}


def _shape(path: str) -> str:
    """A path without the names of its parameters: written {name} or NAME."""
    return re.sub(r"\{[^}]*\}|\b[A-Z]+\b", "{}", path)


def _anchors(file: Path) -> set[str]:
    return {anchor(each) for each in re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)}


def _command_lines(page: Path) -> list[str]:
    """What stands behind `flawscribe` in blocks and in the text, up to the end of each command."""
    code = [line for block in blocks(page) for line in block.text.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"`([^`\n]+)`", page.read_text())
    ours = [line for line in (*code, *spans) if "kubectl" not in line]  # where it is a name space
    found = [re.search(r"(?:^|[\s/])flawscribe ([a-z].*)", line) for line in ours]
    return [re.split(r"\s#|[|;&><]", each[1])[0] for each in found if each and not each[1].startswith("ready on")]
