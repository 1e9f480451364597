"""progress.json: whole at any time, thinned, and gone on with after a resume."""

from __future__ import annotations

from pathlib import Path

from service.trainings.progress import Progress, ProgressFile, read_progress


def test_a_training_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "run" / "progress.json"
    assert read_progress(path) == Progress()
    file = ProgressFile(path)
    file.say("7 pictures to train on")
    for step in range(1, 1001):
        file.step(step, 1000, 1000 / step)
    now = read_progress(path)
    assert (now.phase, now.step, now.steps, now.loss, now.seconds_left) == ("training", 1000, 1000, 1.0, 0.0)
    assert 100 < len(now.curve) <= 300
    assert [step for step, _ in now.curve] == sorted({step for step, _ in now.curve})
    assert now.curve[-1][0] == 1000
    assert now.curve[0][1] > now.curve[-1][1] >= 1.0
    file.say("exporting")
    assert read_progress(path).phase == "finishing"
    file.done(tmp_path / "models" / "bracket" / "3")
    now = read_progress(path)
    assert (now.phase, Path(now.bundle or "").name, now.said) == ("done", "3", ("7 pictures to train on", "exporting"))


def test_samples_of_the_last_evaluation_stay(tmp_path: Path) -> None:
    file = ProgressFile(tmp_path / "progress.json")
    for step in (10, 20):
        file.step(step, 20, 1.0)
        file.evaluated(step, 0.9, [(b"jpeg", False, 0.25), (b"jpeg", True, 2.5)])
    now = read_progress(tmp_path / "progress.json")
    assert now.scores == ((10, 0.9), (20, 0.9))
    assert [(each.file, each.flawed, each.score) for each in now.samples] == [
        ("20-0.jpg", False, 0.25),
        ("20-1.jpg", True, 2.5),
    ]
    assert {path.name for path in (tmp_path / "samples").iterdir()} == {"20-0.jpg", "20-1.jpg"}


def test_a_resumed_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    first = ProgressFile(path)
    for step in range(1, 31):
        first.step(step, 60, 1.0)
        if step in (10, 20, 30):
            first.evaluated(step, step / 100, [])
    first.failed("the disk is full")
    second = ProgressFile(path)  # its checkpoint is of step 20
    now = read_progress(path)
    assert (now.phase, now.error) == ("preparing", None)
    for step in range(21, 61):
        second.step(step, 60, 2.0)
    now = read_progress(path)
    assert [loss for step, loss in now.curve if step <= 20] == [1.0] * 20
    assert [step for step, _ in now.curve] == list(range(1, 61))
    assert now.scores == ((10, 0.1), (20, 0.2))


def test_a_training_that_goes_on_behind_its_last_step_is_finishing(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    first = ProgressFile(path)
    for step in range(1, 5):
        first.step(step, 4, 1.0)
    first.evaluated(4, 0.9, [])
    second = ProgressFile(path)  # the first was killed while it made the forms
    second.say("preparing 7 pictures")
    assert read_progress(path).phase == "preparing"
    second.step(4, 4, 1.0)  # as a trainer tells that nothing is left to learn
    second.say("learned; now making the forms")
    now = read_progress(path)
    assert (now.phase, len(now.curve), now.scores) == ("finishing", 4, ((4, 0.9),))


def test_a_torn_file_is_the_beginning(tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text('{"phase":"trai')
    assert read_progress(tmp_path / "progress.json") == Progress()
