"""The commands of README and docs/ are run as they stand, page by page and in order, against a live service.

A block that needs what a test has not says so in the page: <!-- not run: why -->. Some things are not what they seem: the model
`polka-dot` is a small one made by hand, that sees dark spots (tests/test_documents.py asks the real one); `train` has its options
read and then writes such a model (training takes minutes, and has its own tests); `serve` is started for good, waited for until
it is ready, and stopped; `make` only says what it would do; `bench`, which takes minutes, is left out (its flags are checked by
tests/test_documents.py).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.samples import write_dataset
from tests.contract.serving import Service, running
from tests.documents import ROOT, Block, blocks, pages
from tests.networks import write_bundle

_RUN = {"bash", "sh", "python"}
_PAGES = [page for page in pages() if any(b.language in _RUN and b.not_run is None for b in blocks(page))]

# Each stands in PATH in front of the real one. $URL, $PYTHON, $ROOT and $FLAWSCRIBE_MODELS_DIR come from the test.
_COMMANDS = {
    "flawscribe": """
case $1 in
train | serve) exec "$PYTHON" -m tests.documented "$@" ;;
samples) exec "$PYTHON" -m service "$@" --good 1 --flawed 1 ;; # fewer than asked for
*) exec "$PYTHON" -m service "$@" ;;
esac""",
    "python": """exec "$PYTHON" "$@" """,
    "make": """exec "$REAL_MAKE" --dry-run --no-print-directory -C "$ROOT" "$@" """,
    # fails where the answer is an error; ID in a path stands for the latest flagged inspection
    "curl": r"""
case "$*" in
*/inspections/ID*)
  id=$("$REAL_CURL" -sS "$URL/inspections?verdict=not_ok&limit=1" | grep -o '"id":"[0-9a-f]*"' | head -1 | cut -d'"' -f4)
  for argument; do
    shift
    set -- "$@" "$(printf %s "$argument" | sed "s|/inspections/ID|/inspections/$id|")"
  done ;;
esac
exec "$REAL_CURL" --fail-with-body --silent --show-error "$@" """,
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of generated parts, good and flawed."""
    folder = tmp_path_factory.mktemp("parts") / "fabric"
    write_dataset("polka-dot", folder, 2, 7, 1)
    return folder


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, parts: Path) -> Path:
    """A checkout as the pages' readers have it, with pictures in the folders that they name."""
    folder = tmp_path_factory.mktemp("workplace")
    for name in ("examples", "deploy", "docs"):
        (folder / name).symlink_to(ROOT / name)
    write_bundle(folder / "models", "polka-dot", working_size=448, int8_gain=1.0)
    shutil.copytree(ROOT / "models" / "teachers", folder / "models" / "teachers", copy_function=os.link)
    commands = folder / ".venv" / "bin"
    commands.mkdir(parents=True)
    for name, script in _COMMANDS.items():
        (commands / name).write_text(f"#!/bin/sh{script if script.startswith(chr(10)) else chr(10) + script}\n")
        (commands / name).chmod(0o755)
    for name in ("photos/good", "photos/new"):
        shutil.copytree(parts / "train" / "good", folder / name)
    shutil.copytree(parts, folder / "labelled")
    shutil.copy(parts / "test" / "black_thread" / "000.png", folder / "part.png")
    return folder


@pytest.fixture(scope="module")
def service(workplace: Path) -> Iterator[Service]:
    places = {"records_dir": workplace / "records", "products_dir": ROOT / "deploy" / "products"}
    with running(workplace / "models", model="polka-dot", deadline_ms=120_000, **places) as running_service:
        picture = (workplace / "part.png").read_bytes()
        meta = {"x-meta-serial": "SERIAL", "content-type": "image/png"}
        running_service.client.post("/detect", content=picture, headers=meta, timeout=120).raise_for_status()
        yield running_service


@pytest.mark.slow
@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(page: Path, service: Service, workplace: Path, tmp_path: Path) -> None:
    if not (curl := shutil.which("curl")):
        pytest.skip("curl is not installed")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLAWSCRIBE_")} | {
        "PATH": f"{workplace / '.venv' / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHON": sys.executable,
        "ROOT": str(ROOT),
        "URL": service.url,
        "REAL_CURL": curl,
        "REAL_MAKE": shutil.which("make") or "make",
    }
    for block in blocks(page):
        if block.language in _RUN and block.not_run is None:
            _run(block, service.url, workplace, tmp_path, environment)


def _run(block: Block, url: str, workplace: Path, temporary: Path, environment: dict[str, str]) -> None:
    """Fails with the block's place and what it said, when one of its commands fails."""
    text = block.text.replace("http://localhost:8000", url).replace("/tmp/", f"{temporary}/")
    for program in ("node", "mcs", "mono"):
        if shutil.which(program) is None:
            text = re.sub(rf"^{program} .*\n", "", text, flags=re.MULTILINE)
    command = [sys.executable, "-c", text] if block.language == "python" else ["bash", "-euo", "pipefail", "-c", text]
    done = subprocess.run(
        command, cwd=workplace, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    place = f"{block.page.name} line {block.line}"
    assert done.returncode == 0, f"{place}: exit code {done.returncode}\n{text}\n{done.stdout[-2000:]}\n{done.stderr}"


def test_every_block_that_is_not_run_says_why() -> None:
    for page in pages():
        for block in blocks(page):
            assert block.language, f"{page.name} line {block.line}: name the block's language (text, json, bash, …)"
            if block.not_run is not None:
                assert block.language in _RUN, f"{page.name} line {block.line}: `not run`, but nothing to be run"
