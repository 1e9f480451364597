from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from service.commands import report
from service.errors import BadRequest, InvalidParameter
from service.records.database import open_database
from service.records.pictures import Pictures
from tests.llm_server import LlmServer, completion, status
from tests.unit.records.report.records import bad, record, write

SPAN = ("--from", "2026-03-09T06:00", "--to", "2026-03-10T06:00")


@pytest.fixture
def folder(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records of three inspections on 9 March 2026, and one of an hour ago; one picture is kept."""
    folder = tmp_path / "records"
    monkeypatch.setenv("FLAWSCRIBE_RECORDS_DIR", str(folder))
    database = open_database(folder)
    recent = datetime.now(UTC) - timedelta(hours=1)
    write(database, record(1), record(2, product="metal"), bad(3, picture_stored=True), record(4, created_at=recent))
    database.close()
    Pictures(folder / "pictures").put(f"{3:064x}", (root / "models/polka-dot/1/golden/1.png").read_bytes())
    return folder


def run(*arguments: str) -> Result:
    app = typer.Typer()
    report.register(app)
    return CliRunner().invoke(app, arguments)


def told(*arguments: str) -> dict[str, object]:
    result = run(*arguments, "--format", "json")
    assert result.exit_code == 0, result.exception
    answer: dict[str, object] = json.loads(result.stdout)
    return answer


def test_the_report_of_a_span_with_its_picture(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    result = run(*SPAN, "--out", str(out))
    assert result.exit_code == 0, result.exception
    page = out.read_text()
    assert "66.7%" in page
    assert "Dark spot near the centre" in page
    assert page.count("data:image/jpeg;base64,") == 1


def test_the_usual_span_is_the_last_24_hours(folder: Path) -> None:
    assert told()["counts"]["total"] == 1  # type: ignore[index]


def test_product_and_lot_are_passed_on(folder: Path) -> None:
    assert told(*SPAN, "--product", "metal")["counts"]["total"] == 1  # type: ignore[index]
    assert told(*SPAN, "--lot", "none such")["counts"]["total"] == 0  # type: ignore[index]


def test_csv_goes_to_standard_output(folder: Path) -> None:
    lines = run(*SPAN, "--format", "csv").stdout_bytes.split(b"\r\n")
    assert len(lines) == 5


def test_the_file_s_ending_names_the_format_unless_another_is_asked_for(folder: Path, tmp_path: Path) -> None:
    for name, start in (("r.json", "{"), ("r.csv", "id,"), ("r.HTML", "<!"), ("r.txt", "<!"), ("r", "<!")):
        assert run(*SPAN, "--out", str(tmp_path / name)).exit_code == 0
        assert (tmp_path / name).read_text().lstrip().startswith(start), name
    assert run(*SPAN, "--out", str(tmp_path / "r.txt"), "--format", "json").exit_code == 0
    assert (tmp_path / "r.txt").read_text().startswith("{")
    for name, form in (("new.pdf", "html"), ("new.json", "csv")):
        error = run(*SPAN, "--out", str(tmp_path / name), "--format", form).exception
        assert isinstance(error, BadRequest)
        assert f"--format {form}" in error.detail
        assert not (tmp_path / name).exists()


def test_an_llm_sums_up_within_the_days_limits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LlmServer() as llm:
        monkeypatch.setenv("FLAWSCRIBE_LLM_BASE_URL", llm.base_url)
        monkeypatch.setenv("FLAWSCRIBE_LLM_MODEL", "scripted")
        monkeypatch.setenv("FLAWSCRIBE_LLM_DAILY_CALLS", "2")
        llm.script(completion("One part was flawed."), status(500))
        assert told(*SPAN)["llm_summary"] is None
        assert told(*SPAN, "--summary")["llm_summary"] == "One part was flawed."
        assert "<<<DATA" in llm.requests[-1].texts[-1]
        for reason in ("server_error", "2 calls are used up"):  # the calls are counted in the records
            result = run(*SPAN, "--summary")
            assert (result.exit_code, "66.7%" in result.stdout) == (0, True)
            assert "the report has no summary" in result.stderr
            assert reason in result.stderr
        assert len(llm.requests) == 2
        assert isinstance(run(*SPAN, "--summary", "--format", "csv").exception, BadRequest)
    monkeypatch.delenv("FLAWSCRIBE_LLM_BASE_URL")
    monkeypatch.delenv("FLAWSCRIBE_LLM_MODEL")
    assert isinstance(run(*SPAN, "--summary").exception, BadRequest)


def test_what_cannot_be_done_is_said(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(run("--from", "tomorrow").exception, InvalidParameter)
    assert isinstance(run(*SPAN, "--out", str(tmp_path)).exception, BadRequest)
    monkeypatch.setenv("FLAWSCRIBE_RECORDS_DIR", str(tmp_path / "mistyped"))
    assert isinstance(run().exception, BadRequest)
    assert not (tmp_path / "mistyped").exists()
