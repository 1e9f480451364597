"""What a training says of its steps where nobody watches."""

from __future__ import annotations

from itertools import count
from types import SimpleNamespace

import pytest

from service.commands.train import _Bar


def test_a_training_told_to_a_file_writes_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = count(step=6.0)
    monkeypatch.setattr("service.trainings.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    bar = _Bar()
    for step in range(1, 101):
        bar(step, 100, 1 / step)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == [f"{step}/100" for step in range(5, 101, 5)]
    assert " ".join(lines[0].split()) == "step 5/100 loss 0.2000 9.5 min left"  # 95 steps of six seconds
    assert " ".join(lines[-1].split()) == "step 100/100 loss 0.0100 0.0 min left"
