"""Which checkpoint a training goes on from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from service.errors import BadRequest
from service.training.runs import BuildSettings, Run, checkpoint_of, remembered


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with penalty pictures, whose record and checkpoint are there."""
    settings = BuildSettings(
        data=tmp_path / "data",
        name="plate",
        models_dir=tmp_path / "models",
        runs_dir=tmp_path / "runs",
        teacher="pdn-small",
        penalty=tmp_path / "general",
    )
    run = Run(settings, "images", "teacher", "penalty", {"name": "default", "steps": 4, "drop": 0.1, "patience": None})
    checkpoint_of(run, True, refuse).write_bytes(b"weights")
    return run


def refuse(text: str) -> None:
    raise AssertionError(text)


def folder_of(run: Run) -> Path:
    return run.settings.runs_dir / run.settings.name


def taken_up(run: Run) -> bool:
    """Whether the run goes on from the checkpoint that is there."""
    said: list[str] = []
    there = checkpoint_of(run, True, said.append).exists()
    assert there == (not said)
    return there


def test_a_run_goes_on_from_its_own_checkpoint(run: Run) -> None:
    assert taken_up(run)
    assert remembered(folder_of(run)) == run.settings


@pytest.mark.parametrize(
    "other",
    [{"images": "other"}, {"teacher": "other"}, {"penalty": "other"}, {"recipe": {"name": "default", "steps": 5}}],
    ids=lambda other: next(iter(other)),
)
def test_another_run_s_is_put_aside_or_not_exported(run: Run, other: dict[str, Any]) -> None:
    other_run = replace(run, **other)
    with pytest.raises(BadRequest, match="changed since"):
        checkpoint_of(other_run, False, refuse)
    assert not taken_up(other_run)
    assert (folder_of(run) / "checkpoint.old.pt").read_bytes() == b"weights"


def test_a_run_recorded_without_its_penalty_pictures_is_known_by_their_folder(run: Run, tmp_path: Path) -> None:
    record = folder_of(run) / "run.json"
    old = json.loads(record.read_text())
    del old["penalty"], old["recipe"]
    for settings, known in ((run.settings, True), (replace(run.settings, penalty=tmp_path / "elsewhere"), False)):
        record.write_text(json.dumps(old))
        assert taken_up(replace(run, settings=settings)) == known
    assert json.loads(record.read_text())["penalty"] == "penalty"  # from now on


def test_the_same_teacher_may_be_asked_for_in_another_way(run: Run) -> None:
    assert taken_up(replace(run, settings=replace(run.settings, teacher="elsewhere/pdn-small.safetensors")))
