"""/classify through `transformers serve`, an LLM server that is not ours, with vision LLMs of random weights.

python -m venv /tmp/wire && /tmp/wire/bin/pip install torch "transformers[serving]" pillow
python -m benchmarks.llm_wire --python /tmp/wire/bin/python --json benchmarks/results/llm_wire.json

One model speaks noise, the other one sound answer (benchmarks/tiny_llm.py); each is asked with both prompt profiles and
for the summary of a report.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from benchmarks.machine import describe, tell
from service.samples import render
from tests.llm_server import answer_json

MODEL_FILE = Path(__file__).with_name("tiny_llm.py")
ANSWERS = {"noise": "", "sound": answer_json(1)}  # what each model says
CARDS = {"fabric": "default", "fabric-matlab": "matlab"}  # product: prompt profile
LONGEST_S = 120.0


@contextmanager
def llm_server(python: Path, folder: Path, name: str) -> Iterator[str]:
    """`transformers serve` with the model that says ANSWERS[name]; gives the address."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    make = [str(python), str(MODEL_FILE), str(folder / name), "--says", ANSWERS[name]]
    subprocess.run(make, env=environment, check=True, stderr=subprocess.DEVNULL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(python.with_name("transformers")), "serve", name, "--port", str(port), "--device", "cpu"]
    log = (folder / f"{name}.log").open("wb")
    with log, subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log) as server:
        try:
            await_health(f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def await_health(url: str) -> None:
    """Until the server answers."""
    until = time.monotonic() + LONGEST_S
    while time.monotonic() < until:
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise SystemExit(f"{url} does not answer")


@contextmanager
def service(folder: Path, llm: str, name: str) -> Iterator[httpx.Client]:
    """The service, with that LLM and the two cards."""
    for product, profile in CARDS.items():
        card = {"product": product, "name": "polka-dot fabric", "may_leave": True, "prompt_profile": profile}
        card["flaws"] = [{"label": "thread", "words": "a loose thread"}]
        (folder / f"{product}.yaml").write_text(json.dumps(card))
    environment = {
        **os.environ,
        "FLAWSCRIBE_PRODUCTS_DIR": str(folder),
        "FLAWSCRIBE_RECORDS_DIR": str(folder / f"records-{name}"),
        "FLAWSCRIBE_LLM_BASE_URL": llm,
        "FLAWSCRIBE_LLM_MODEL": name,
        "FLAWSCRIBE_LLM_DEADLINE_S": str(LONGEST_S),
    }
    command = [sys.executable, "-m", "service", "serve", "--port", "0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        try:
            with httpx.Client(base_url=server.stdout.readline().split()[3], timeout=2 * LONGEST_S) as client:
                yield client
        finally:
            server.terminate()


def flawed() -> bytes:
    """A generated part with a black thread, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(render("polka-dot", np.random.default_rng(2), "black_thread").image).save(buffer, "PNG")
    return buffer.getvalue()


def classified(client: httpx.Client, product: str) -> dict[str, Any]:
    """What came of one picture with a flaw."""
    headers = {"content-type": "image/png", "x-meta-product": product, "x-deadline-ms": str(int(2000 * LONGEST_S))}
    answer = client.post("/classify", content=flawed(), headers=headers).raise_for_status()
    (result,) = answer.json()["results"]
    words = result["regions"][0]["classification"]
    kept = ("source", "description", "degraded", "fallback_reason", "prompt_version")
    return {"verdict": result["verdict"], **{name: words[name] for name in kept}, "llm": result["llm"]}


def summed_up(client: httpx.Client) -> bool:
    """Whether the report has an LLM's summary."""
    page = client.get("/reports?summary=true&format=json").raise_for_status()
    return bool(page.json()["llm_summary"])


def versions(python: Path) -> dict[str, str]:
    """Of what the LLM server runs on."""
    code = "import json, torch, transformers; print(json.dumps([transformers.__version__, torch.__version__]))"
    told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    return dict(zip(("transformers", "torch"), json.loads(told), strict=True))


def main() -> None:
    """Ask both models with both profiles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="a Python with torch, transformers[serving], pillow")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    python = options.python.absolute()
    result: dict[str, Any] = {"machine": describe(), "llm_server": versions(python)}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name in ANSWERS:
            with llm_server(python, folder, name) as llm, service(folder, llm, name) as client:
                result[name] = {profile: classified(client, product) for product, profile in CARDS.items()}
                result[name]["report_has_a_summary"] = summed_up(client)
                log = (folder / f"{name}.log").read_text()
                result[name]["response_format_ignored"] = "in the request: {'response_format'}" in log
    tell(result, options.json)


if __name__ == "__main__":
    main()
