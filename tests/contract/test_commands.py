"""The command line as a user meets it: a child process, its streams and its exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from PIL import Image
from typer.testing import CliRunner

from service.bundle.load import Bundle, EngineOptions, load_bundle
from service.bundle.store import Store
from service.cli import command_line
from service.commands.outputs import require_file, require_folder
from service.errors import BadRequest, NotReady, SettingsError
from tests.networks import grey_picture, png, write_bundle


def flawscribe(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("models"), "probe", 1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good part, a bad one in a subfolder, a broken file, and something that is no picture."""
    folder = tmp_path_factory.mktemp("photos")
    bad = grey_picture()
    bad[50:80, 60:90] = 20
    (folder / "sub").mkdir()
    (folder / "good.png").write_bytes(png(grey_picture()))
    (folder / "sub" / "bad.png").write_bytes(png(bad))
    (folder / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "notes.txt").write_text("no picture")
    return folder


def refused(done: subprocess.CompletedProcess[str], word: str) -> None:
    """One clear line, and exit code 2."""
    assert done.returncode == 2, done.stderr
    assert word in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_score_writes_a_row_a_file_and_draws(bundle: Path, photos: Path, tmp_path: Path) -> None:
    done = flawscribe("score", photos, "--bundle", bundle, "--out", tmp_path, "--overlays")
    assert done.returncode == 0, done.stderr
    rows = {row["file"]: row for row in csv.DictReader(io.StringIO((tmp_path / "scores.csv").read_text()))}
    assert set(rows) == {"good.png", "sub/bad.png", "torn.jpg"}
    assert (rows["good.png"]["verdict"], rows["sub/bad.png"]["verdict"]) == ("ok", "not_ok")
    assert float(rows["sub/bad.png"]["anomaly_score"]) > float(rows["sub/bad.png"]["threshold"])
    assert rows["torn.jpg"]["error"]
    assert not rows["torn.jpg"]["verdict"]
    assert (rows["good.png"]["regions"], rows["torn.jpg"]["regions"]) == ("[]", "")
    with Image.open(tmp_path / "overlays" / "sub" / "bad.png.png") as overlay:
        assert overlay.size == (224, 224)


def test_score_of_one_picture_by_model_name_as_json_lines(bundle: Path, photos: Path) -> None:
    models = str(bundle.parents[1])
    done = flawscribe(
        "score", photos / "sub" / "bad.png", "--model", "probe", "--format", "jsonl", FLAWSCRIBE_MODELS_DIR=models
    )
    row = json.loads(done.stdout)
    assert (row["file"], row["verdict"]) == ("bad.png", "not_ok")
    x, y, w, h = row["regions"][0]["box"]
    assert x < 75 < x + w
    assert y < 65 < y + h


def test_score_of_nothing_that_can_be_read_ends_with_1_and_its_names_are_no_formulas(
    bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "=1+1.png").write_bytes(b"no picture")
    for form in ("csv", "jsonl"):
        done = flawscribe("score", tmp_path, "--bundle", bundle, "--format", form)
        assert (done.returncode, done.stderr) == (1, "flawscribe: none of 1 pictures could be judged\n")
        if form == "csv":
            (row,) = csv.DictReader(io.StringIO(done.stdout))
            assert (row["file"], row["regions"]) == ("'=1+1.png", "")
        else:
            assert json.loads(done.stdout)["regions"] is None
    (tmp_path / "good.png").write_bytes(png(grey_picture()))
    assert flawscribe("score", tmp_path, "--bundle", bundle).returncode == 0


def test_score_refuses_what_it_cannot_do(bundle: Path, photos: Path, tmp_path: Path) -> None:
    refused(flawscribe("score", tmp_path, "--bundle", bundle), "no picture")
    refused(flawscribe("score", photos, "--bundle", bundle, "--overlays"), "--out")
    within = flawscribe("score", photos, "--bundle", bundle, "--overlays", "--out", photos / "scored")
    refused(within, "would be taken for pictures the next time")
    refused(flawscribe("score", photos, "--model", "x", FLAWSCRIBE_MODELS_DIR=str(bundle.parents[1])), "no model 'x'")


def test_check_tells_sound_from_damaged(bundle: Path, tmp_path: Path) -> None:
    sound = flawscribe("check", bundle)
    assert sound.returncode == 0
    assert "form float32: meets its golden pictures" in sound.stdout
    damaged = write_bundle(tmp_path, "probe", 1)
    (damaged / "reference.png").write_bytes(b"other")
    refused(flawscribe("check", damaged), "reference.png")


def test_check_tells_of_every_form_and_fails_when_one_misses_its_golden_pictures(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path, "probe", 1, int8_gain=0.5)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["golden"][0]["scores"]["int8"] += 0.2
    (folder / "manifest.json").write_text(json.dumps(manifest))
    done = flawscribe("check", folder)
    assert done.returncode == 2
    assert "form float32: meets its golden pictures" in done.stdout
    assert "form int8: MISSES its golden pictures" in done.stdout
    assert "missed on this machine by int8" in done.stderr.splitlines()[-1]
    both = write_bundle(tmp_path, "other", 1, int8_gain=0.5, golden_shift=0.2)
    done = flawscribe("check", both)
    refused(done, "missed on this machine by float32, int8")
    assert done.stdout.count("MISSES its golden pictures") == 2


def add_fp16(folder: Path) -> None:
    """The float32 network once more, as the form that GPUs serve."""
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "model.fp16.onnx").write_bytes((folder / "model.onnx").read_bytes())
    manifest["files"]["model.fp16.onnx"] = manifest["files"]["model.onnx"]
    manifest["forms"]["fp16"] = {**manifest["forms"]["float32"], "file": "model.fp16.onnx"}
    manifest["golden"][0]["scores"]["fp16"] = manifest["golden"][0]["scores"]["float32"]
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("there", "why"), [(False, "it is served by GPUs, and there is none here"), (True, "no CUDA, as a test has it")]
)
def test_check_tells_of_a_form_that_cannot_run_here(
    there: bool, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_fp16(folder := write_bundle(tmp_path, "probe", 1))

    def load(place: Path, options: EngineOptions) -> Bundle:
        if options.provider == "cuda":
            raise NotReady(why)
        return load_bundle(place, options)

    monkeypatch.setattr("service.commands.check.has_cuda", lambda: there)
    monkeypatch.setattr("service.commands.check.load_bundle", load)
    done = CliRunner().invoke(command_line(), ["check", str(folder)])
    assert done.exit_code == 0, done.output
    assert "form float32: meets its golden pictures" in done.output
    assert f"form fp16: not checked, {why}" in done.output


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    made = flawscribe("key", "create", "--keys-file", file, "--scope", "detect", "--scope", "admin", "--note", "line 3")
    secret, key_id = made.stdout.split()[0], made.stdout.split("key ")[1][:8]
    listed = flawscribe("key", "list", "--keys-file", file).stdout
    assert key_id in listed
    assert "detect,admin" in listed
    assert secret not in listed + file.read_text()
    assert flawscribe("key", "revoke", "--keys-file", file, key_id).returncode == 0
    assert flawscribe("key", "list", "--keys-file", file).stdout == ""
    refused(flawscribe("key", "create", "--keys-file", file, "--scope", "root"), "unknown scope root")


def test_a_keys_file_stays_whose_it_was(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "keys.json"
    link.symlink_to(real)
    for note in ("first", "second"):
        assert flawscribe("key", "create", "--keys-file", link, "--scope", "detect", "--note", note).returncode == 0
        if note == "first":
            assert real.stat().st_mode & 0o777 == 0o600
            real.chmod(0o640)
            if os.geteuid() == 0:
                os.chown(real, 12345, 23456)
    assert link.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert (real.stat().st_uid, real.stat().st_gid) == (
        (12345, 23456) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    )
    assert [line.split()[-1] for line in flawscribe("key", "list", "--keys-file", link).stdout.splitlines()] == [
        "first",
        "second",
    ]


def test_the_keys_file_is_the_one_that_the_service_is_set_up_with(tmp_path: Path) -> None:
    place = {"FLAWSCRIBE_KEYS_FILE": str(tmp_path / "keys.json")}
    runner = CliRunner()
    assert (
        "FLAWSCRIBE_KEYS_FILE"
        in runner.invoke(command_line(), ["key", "list"], env={"FLAWSCRIBE_KEYS_FILE": None}).output
    )
    assert (
        runner.invoke(command_line(), ["key", "create", "--scope", "detect", "--note", "line 3"], env=place).exit_code
        == 0
    )
    assert "line 3" in runner.invoke(command_line(), ["key", "list"], env=place).output


@pytest.mark.parametrize("group", ["key", "teacher", "bench"])
def test_help_of_a_group_ends_with_no_bare_example(group: str) -> None:
    assert "Example" not in CliRunner().invoke(command_line(), [group, "--help"]).output


@pytest.mark.parametrize(
    "command",
    [
        ("check", "none"),
        ("samples", "polka-dot", "PLACE"),
        ("key", "list", "--keys-file", "none"),
        ("teacher", "list"),
        ("train", "--data", "none", "--name", "x", "--models-dir", "PLACE"),
        ("version",),
    ],
)
def test_a_mistyped_setting_is_refused_by_commands_that_read_none(command: tuple[str, ...], tmp_path: Path) -> None:
    words = [str(tmp_path / "new") if word == "PLACE" else word for word in command]
    error = CliRunner().invoke(command_line(), words, env={"FLAWSCRIBE_PROT": "1"}).exception
    assert isinstance(error, SettingsError)
    assert error.detail.startswith("unknown setting FLAWSCRIBE_PROT;")
    assert not list(tmp_path.iterdir())


def test_serve_refuses_a_configuration_that_cannot_hold(bundle: Path, tmp_path: Path) -> None:
    models = str(bundle.parents[1])
    refused(flawscribe("serve", "--host", "0.0.0.0"), "without API keys")
    refused(flawscribe("version", FLAWSCRIBE_PROT="1"), "FLAWSCRIBE_PROT")
    refused(flawscribe("serve", FLAWSCRIBE_PORT="many"), "not 'many'")
    refused(flawscribe("serve", FLAWSCRIBE_KEYS_FILE=str(tmp_path / "none.json")), "none.json")
    refused(flawscribe("serve", "--port", 0, "--models-dir", models, "--model", "nothing"), "no model 'nothing'")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused(flawscribe("serve", "--port", taken.getsockname()[1]), "take another one with --port")


def test_serve_listens_beyond_this_machine_without_keys_only_when_told_insecure(bundle: Path, tmp_path: Path) -> None:
    beyond = ("serve", "--host", "0.0.0.0", "--port", 0, "--models-dir", bundle.parents[1])
    refused(flawscribe(*beyond), "without API keys")
    own = {"FLAWSCRIBE_RECORDS_DIR": str(tmp_path), "FLAWSCRIBE_PRODUCTS_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "service", *map(str, beyond), "--insecure"]
    with subprocess.Popen(command, env={**os.environ, **own}, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            told = re.match(r"flawscribe ready on http://0\.0\.0\.0:(\d+) ", server.stdout.readline())
            assert told is not None
            asked = {"files": {"image": ("a.png", png(grey_picture()))}, "headers": {"host": "line3.example"}}
            answer = httpx.post(f"http://127.0.0.1:{told[1]}/detect", timeout=30, **asked)
            assert answer.status_code == 200, answer.text
        finally:
            server.terminate()
        assert server.wait(30) == 0


def test_a_model_name_that_cannot_be_is_refused_before_the_training(photos: Path) -> None:
    refused(flawscribe("train", "--data", photos, "--name", "My Part"), "--name 'My Part'")
    refused(flawscribe("train", "--data", photos, "--name", "teachers"), "not 'teachers'")


def refusal(*arguments: object) -> str:
    """What a command is refused with, run in this process."""
    error = CliRunner().invoke(command_line(), list(map(str, arguments))).exception
    assert isinstance(error, BadRequest), error
    return error.detail


@pytest.mark.parametrize(
    "command",
    [
        ("bench", "network", "--bundle", "none", "--json"),
        ("bench", "service", "--bundle", "none", "--json"),
        ("bench", "train", "--size", "none", "--json"),
        ("bench", "memory", "--bundle", "none", "--json"),
        ("evaluate", "none", "none", "--json"),
        ("evaluate", "none", "none", "--html"),
        ("report", "--from", "never", "--out"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_the_work(command: tuple[str, ...], tmp_path: Path) -> None:
    assert refusal(*command, tmp_path) == f"{tmp_path} cannot be written: Is a directory"
    file = tmp_path / "none" / "file"
    assert refusal(*command, file) == f"{file} cannot be written: there is no folder {tmp_path / 'none'}"


@pytest.mark.parametrize(
    "command",
    [
        ("score", "PHOTOS", "--bundle", "none", "--out"),
        ("train", "--data", "none", "--name", "x", "--progress"),
        ("train", "--data", "none", "--name", "x", "--models-dir"),
        ("train", "--data", "none", "--name", "x", "--runs-dir"),
        ("teacher", "pretrain", "--folder", "none", "--size", "none", "--checkpoint"),
        ("teacher", "pretrain", "--folder", "none", "--checkpoint", "none.pt", "--name", "x", "--directory"),
        ("teacher", "energies", "--folder", "none", "--name", "x", "--directory"),
        ("samples", "polka-dot"),
    ],
)
def test_a_folder_that_cannot_be_made_is_told_before_the_work(
    command: tuple[str, ...], photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    command = tuple(str(photos) if word == "PHOTOS" else word for word in command)
    assert f"{tmp_path}/file/new" in (told := refusal(*command, tmp_path / "file" / "new" / "x"))
    assert "cannot be written" in told


def test_the_folder_of_models_is_tried_before_a_run_is_exported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    settings = {"data": "none", "name": "x", "models_dir": f"{tmp_path}/file/models", "runs_dir": str(tmp_path)}
    (tmp_path / "run.json").write_text(json.dumps({"settings": settings, "images": "", "teacher": ""}))
    assert f"{tmp_path}/file/models/x cannot be written" in refusal("export", tmp_path)


@pytest.mark.parametrize("option", ["--min-flaw-px", "--min-flaw-mm", "--mm-per-pixel"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_a_length_that_is_none_is_refused_before_the_training(option: str, value: str) -> None:
    error = CliRunner().invoke(
        command_line(), ["train", "--data", "none", "--name", "x", "--mm-per-pixel", "1", option, value]
    )
    assert error.exit_code != 0
    if isinstance(error.exception, BadRequest):
        assert error.exception.detail.startswith(f"{option} must be above 0 and finite, not ")
    else:  # below what the option takes
        assert option in error.output


def test_a_recipe_that_is_none_is_refused_before_the_training() -> None:
    pytest.importorskip("torch", reason="needs the extra `train`")
    assert refusal("train", "--data", "none", "--name", "x", "--recipe", "papper") == (
        "no recipe 'papper'; there are: default, paper, matlab"
    )


@pytest.mark.parametrize(("there", "chosen"), [((), None), ((1,), 1), ((1, 3), 3)])
def test_a_further_version_of_the_command_line_waits_for_a_person(
    there: tuple[int, ...], chosen: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="needs the extra `train`")
    from service.training.runs import BuildSettings

    for version in there:
        write_bundle(tmp_path, "probe", version)

    def build(settings: BuildSettings, *_: object) -> Path:
        return write_bundle(settings.models_dir, settings.name, max(there, default=0) + 1)

    monkeypatch.setattr("service.training.build.build", build)
    words = [
        "train",
        "--data",
        "none",
        "--name",
        "probe",
        "--models-dir",
        str(tmp_path),
        "--runs-dir",
        str(tmp_path / "r"),
    ]
    done = CliRunner().invoke(command_line(), words)
    store = Store(tmp_path, EngineOptions())  # as after a restart
    assert store.active_version("probe") == (chosen or 1)  # the first one answers at once
    assert ("put it in service" in done.output) == bool(there)


@pytest.mark.parametrize("rate", ["0", "0.5", "-0.1", "1", "nan"])
def test_a_false_reject_rate_that_is_none_is_refused_before_the_training(rate: str) -> None:
    pytest.importorskip("torch", reason="needs the extra `train`")
    told = refusal("train", "--data", "none", "--name", "x", "--false-reject-rate", rate)
    assert told.startswith("--false-reject-rate ")
    assert told.endswith("must lie between 0 and 0.5")


@pytest.mark.parametrize(
    ("options", "px"),
    [
        (("--min-flaw-mm", "2", "--mm-per-pixel", "0.25"), 8.0),
        (("--min-flaw-px", "5", "--mm-per-pixel", "0.25"), 5.0),
        ((), None),
    ],
)
def test_the_smallest_flaw_in_mm_becomes_px(
    options: tuple[str, ...], px: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="needs the extra `train`")
    from service.training.runs import BuildSettings

    asked: list[BuildSettings] = []

    def build(settings: BuildSettings, *_: object) -> Path:
        asked.append(settings)
        return tmp_path

    monkeypatch.setattr("service.training.build.build", build)
    folders = ["--models-dir", str(tmp_path / "models"), "--runs-dir", str(tmp_path / "runs")]
    done = CliRunner().invoke(command_line(), ["train", "--data", "none", "--name", "x", *folders, *options])
    assert done.exit_code == 0, done.output
    assert asked[0].min_flaw_px == px
    assert asked[0].mm_per_pixel == (0.25 if options else None)


def test_trying_an_output_leaves_everything_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("kept")
    require_file(tmp_path / "there")
    require_file(tmp_path / "new")
    require_file(tmp_path / "a" / "b" / "new", makes_folder=True)
    require_folder(tmp_path / "a" / "b")
    os.mkfifo(tmp_path / "pipe")
    require_file(tmp_path / "pipe")  # does not wait for a reader
    (tmp_path / "pipe").unlink()
    with pytest.raises(BadRequest, match="cannot be written"):
        require_file(tmp_path / ("x" * 300))
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert (tmp_path / "there").read_text() == "kept"


def test_what_the_system_refuses_is_one_line_too(bundle: Path, photos: Path, tmp_path: Path) -> None:
    taken = tmp_path / "overlays" / "good.png.png"
    taken.mkdir(parents=True)
    done = flawscribe("score", photos / "good.png", "--bundle", bundle, "--out", tmp_path, "--overlays")
    refused(done, f"flawscribe: {taken}: Is a directory")
    (torn := tmp_path / "torn").mkdir()
    (torn / "torn.png").write_bytes(b"no picture")
    done = flawscribe("teacher", "energies", "--folder", torn, "--name", "x", "--directory", tmp_path)
    assert (done.returncode, "torn.png: not a picture" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


@pytest.mark.parametrize("share", ["2", "1", "0", "-1", "nan"])
def test_a_share_of_escapes_that_is_none_is_refused(share: str) -> None:
    assert refusal("thresholds", "x", "--most-escapes", share) == "--most-escapes must be above 0 and below 1"


def test_no_database_is_made_where_none_is(bundle: Path, tmp_path: Path) -> None:
    refused(flawscribe("report", FLAWSCRIBE_RECORDS_DIR=str(tmp_path)), "no records in")
    environment = {"FLAWSCRIBE_RECORDS_DIR": str(tmp_path), "FLAWSCRIBE_MODELS_DIR": str(bundle.parents[1])}
    refused(flawscribe("thresholds", "probe", **environment), "no records in")
    assert not list(tmp_path.iterdir())
