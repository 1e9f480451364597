"""What a training says of its steps where nobody watches."""

from __future__ import annotations

import pytest

from service.commands.train import _Bar


def test_a_training_told_to_a_file_writes_lines(capsys: pytest.CaptureFixture[str]) -> None:
    bar = _Bar()
    for step in range(1, 101):
        bar(step, 100, 1 / step)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == [f"{step}/100" for step in range(5, 101, 5)]
