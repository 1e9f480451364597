"""The import direction of the house, from the syntax tree: a part may use only what lies below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SERVICE = Path(__file__).resolve().parents[1] / "service"
GROUND = {"types", "errors", "settings", "metrics", "__init__"}
MIDDLE = {"captions", "records", "engine", "decision", "bundle"}
BELOW: dict[str, set[str]] = {
    **{name: {"types", "errors", "__init__"} for name in GROUND},
    "image": GROUND,
    **{name: GROUND | {"image"} | MIDDLE for name in MIDDLE},
    "samples": GROUND | {"image"},
    "inspector": GROUND | {"image"} | MIDDLE,
    "console": GROUND,
    "background": GROUND,
    "trainings": GROUND | {"background"} | MIDDLE,
    "shadow": GROUND | {"background", "inspector"} | MIDDLE,
    "api": GROUND | {"image", "inspector", "console", "trainings", "shadow"} | MIDDLE,
    "training": GROUND | {"image", "inspector", "samples"} | MIDDLE,
    "bench": GROUND | {"image", "inspector", "samples", "api", "training"} | MIDDLE,
    "commands": GROUND
    | {"image", "inspector", "samples", "api", "training", "trainings", "background", "bench"}
    | MIDDLE,
    "cli": GROUND | {"commands"},
    "__main__": {"cli"},
}
FILES = sorted(SERVICE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(SERVICE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SERVICE)))
def test_imports_go_one_way(path: Path) -> None:
    part = part_of(path)
    used = {name.split(".")[1] for name in imported(path) if name.startswith("service.")} - {"__version__"}
    assert used <= BELOW[part] | {part}, f"{part} must not import {used - BELOW[part] - {part}}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SERVICE)))
def test_only_training_and_bench_import_torch(path: Path) -> None:
    heavy = {name.split(".")[0] for name in imported(path)} & {"torch", "safetensors", "onnxscript"}
    assert not heavy or part_of(path) in ("training", "bench")


@pytest.mark.parametrize("path", [path for path in FILES if part_of(path) == "bench"], ids=lambda path: path.name)
def test_bench_loads_without_torch(path: Path) -> None:
    """It runs in the base install: what may be missing is imported where it is used. train.py, which measures training
    itself, is such a thing."""
    if path.name == "train.py":
        users = [other for other in FILES if "service.bench.train" in imported(other)]
        assert [user.name for user in users] == ["bench.py"]
        return
    top = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in top for alias in node.names} | {getattr(node, "module", "") or "" for node in top}
    assert not {name for name in names if name.startswith(("torch", "openvino", "service.training"))}


def test_the_environment_is_read_in_one_place() -> None:
    readers = {part_of(path) for path in FILES if "os.environ" in path.read_text() or "os.getenv" in path.read_text()}
    assert readers == {"settings"}
