"""The command line as a user meets it: a child process, its streams and its exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

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


def test_score_refuses_what_it_cannot_do(bundle: Path, photos: Path, tmp_path: Path) -> None:
    refused(flawscribe("score", tmp_path, "--bundle", bundle), "no picture")
    refused(flawscribe("score", photos, "--bundle", bundle, "--overlays"), "--out")
    refused(flawscribe("score", photos, "--model", "x", FLAWSCRIBE_MODELS_DIR=str(bundle.parents[1])), "no model 'x'")


def test_check_tells_sound_from_damaged(bundle: Path, tmp_path: Path) -> None:
    sound = flawscribe("check", bundle)
    assert sound.returncode == 0
    assert "form float32: meets its golden pictures" in sound.stdout
    damaged = write_bundle(tmp_path, "probe", 1)
    (damaged / "reference.png").write_bytes(b"other")
    refused(flawscribe("check", damaged), "reference.png")


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


def test_serve_refuses_a_configuration_that_cannot_hold(bundle: Path, tmp_path: Path) -> None:
    models = str(bundle.parents[1])
    refused(flawscribe("serve", "--host", "0.0.0.0"), "without API keys")
    refused(flawscribe("serve", FLAWSCRIBE_PROT="1"), "FLAWSCRIBE_PROT")
    refused(flawscribe("serve", FLAWSCRIBE_PORT="many"), "not 'many'")
    refused(flawscribe("serve", FLAWSCRIBE_KEYS_FILE=str(tmp_path / "none.json")), "none.json")
    refused(flawscribe("serve", "--port", 0, "--models-dir", models, "--model", "nothing"), "no model 'nothing'")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused(flawscribe("serve", "--port", taken.getsockname()[1]), "take another one with --port")


def test_a_model_name_that_cannot_be_is_refused_before_the_training(photos: Path) -> None:
    refused(flawscribe("train", "--data", photos, "--name", "My Part"), "--name 'My Part'")
    refused(flawscribe("train", "--data", photos, "--name", "teachers"), "not 'teachers'")
