"""Every way in which an LLM endpoint is known to fail: each ends in a typed failure, by the deadline and a quarter of a second,
and over HTTP in an answer without the LLM's words as soon after the detection."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from llmock.scenarios import Delay, Fail, Reply
from llmock.testing import LLMockServer

from service.captions.answer import LlmUnavailable, Reason
from service.captions.client import LlmClient, LlmSettings
from service.captions.guard import CircuitBreaker
from tests.contract.serving import Service, running
from tests.llm_server import (
    LlmServer,
    answer_json,
    completion,
    drip,
    error_json,
    huge,
    raw,
    reset,
    reset_midway,
    respond,
    silent,
    status,
)
from tests.llm_server import Reply as Scripted
from tests.llm_tasks import llm_task, soon
from tests.networks import grey_picture, png, write_bundle

DEADLINE = 1.0
GRACE = 0.25
TRIES = 3  # a busy machine delays one answer; a service that does not keep its deadline is late each time
HTML = "<html><body><h1>It works!</h1></body></html>"
GERMAN = {
    "description": "Schwarzer Faden ist auf dem Stoff oben links.",
    "action": "Den Stoff mit der Bürste reinigen und nicht weitergeben.",
    "causes": None,
}
JAPANESE = {"description": "生地の左上に黒い糸があります。", "action": None, "causes": None}
FILTERED = error_json("The response was filtered due to the prompt", code="content_filter")
FULL = error_json("This model's maximum context length is 4096 tokens", code="context_length_exceeded")

FAULTS: dict[str, tuple[Scripted, Reason]] = {
    "refusal": (completion(None, refusal="I cannot help with that."), Reason.REFUSED),
    "cut at the token limit": (completion('{"picture": {"la', finish_reason="length"), Reason.CUT_SHORT),
    "content filter on the answer": (completion("", finish_reason="content_filter"), Reason.CONTENT_FILTER),
    "content filter on the request": (status(400, FILTERED), Reason.CONTENT_FILTER),
    "empty answer": (completion(""), Reason.EMPTY),
    "null answer": (completion(None), Reason.EMPTY),
    "no choices": (status(200, '{"choices": []}'), Reason.EMPTY),
    "nothing described": (completion('{"picture": null, "regions": []}'), Reason.EMPTY),
    "prose instead of JSON": (completion("There is a black thread on the cloth."), Reason.INVALID_ANSWER),
    "fields of a wrong type": (completion(answer_json(1, description=["a", "list"])), Reason.INVALID_ANSWER),
    "JSON nested without end": (completion("[" * 60_000), Reason.INVALID_ANSWER),
    "thoughts without end": (completion("<think>" * 9_000), Reason.INVALID_ANSWER),
    "words without end": (completion("black thread " * 10_000), Reason.TOO_LARGE),
    "another Latin language": (completion(answer_json(1, **GERMAN)), Reason.WRONG_LANGUAGE),
    "another script": (completion(answer_json(1, **JAPANESE)), Reason.WRONG_LANGUAGE),
    "a tool call": (completion(None, finish_reason="tool_calls", tool_calls=[]), Reason.MALFORMED),
    "JSON that is no completion": (status(200, '{"object": "list", "data": []}'), Reason.MALFORMED),
    "HTML page with status 200": (status(200, HTML, "text/html"), Reason.NOT_JSON),
    "HTML page with status 502": (status(502, HTML, "text/html"), Reason.SERVER_ERROR),
    "bytes that are no text": (raw(respond(200, b"\xff\xfe\x00\xd8")), Reason.NOT_JSON),
    "compressed answer": (raw(respond(200, gzip.compress(b" " * 10**6), Content_Encoding="gzip")), Reason.MALFORMED),
    "no HTTP": (raw(b"SSH-2.0-OpenSSH_9.2\r\n"), Reason.CONNECTION),
    "bad key": (status(401), Reason.UNAUTHORIZED),
    "no permission": (status(403), Reason.UNAUTHORIZED),
    "no such model": (status(404, error_json("The model does not exist", code="model_not_found")), Reason.NOT_FOUND),
    "request refused in every form": (status(400), Reason.BAD_REQUEST),
    "prompt too long": (status(400, FULL), Reason.TOO_LONG),
    "server error": (status(500), Reason.SERVER_ERROR),
    "redirect": (status(307, "", Location="http://127.0.0.1:9/elsewhere"), Reason.REDIRECT),
    "connection reset before the answer": (reset, Reason.CONNECTION),
    "connection reset within the answer": (reset_midway, Reason.CONNECTION),
    "a byte at a time": (drip, Reason.TIMEOUT),
    "no answer ever": (silent, Reason.TIMEOUT),
    "answer without end": (huge, Reason.TOO_LARGE),
}


@dataclass(frozen=True)
class Failure:
    """What came of a task, and how long after its deadline."""

    error: LlmUnavailable
    late: float


@pytest.fixture(scope="module")
def server() -> Iterator[LlmServer]:
    with LlmServer() as running:
        running.script(status(500))
        failure(running.base_url)  # a first request loads modules, on a busy machine for longer than the deadline
        yield running


def failure(base_url: str) -> Failure:
    async def ask() -> Failure:
        client = LlmClient(LlmSettings(base_url, "vision"))
        deadline = soon(DEADLINE)
        try:
            with pytest.raises(LlmUnavailable) as failed:
                await client.caption(llm_task(), deadline)
            return Failure(failed.value, time.monotonic() - deadline)
        finally:
            await client.close()

    return asyncio.run(ask())


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_a_typed_failure_by_the_deadline(server: LlmServer, name: str) -> None:
    reply, reason = FAULTS[name]
    server.script(reply)
    found = failure(server.base_url)
    assert found.error.reason is reason
    assert found.late <= GRACE
    assert found.error.usage.calls == len(server.requests)


def test_rate_limit_says_how_long_to_wait(server: LlmServer) -> None:
    server.script(status(429, Retry_After="7"))
    error = failure(server.base_url).error
    assert (error.reason, error.retry_after) == (Reason.RATE_LIMITED, 7.0)
    assert len(server.requests) == 1


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        error = failure(f"http://127.0.0.1:{unused.getsockname()[1]}/v1").error
    assert error.reason is Reason.CONNECTION


@pytest.fixture(scope="module")
def mock() -> Iterator[LLMockServer]:
    with LLMockServer() as running:
        yield running


def test_llmock_answers_a_task_over_the_wire(mock: LLMockServer) -> None:
    mock.state.scenarios.add(Reply(text=answer_json(1)))

    async def ask() -> str:
        client = LlmClient(LlmSettings(mock.base_url("openai"), "gpt-4o"))
        answer = await client.caption(llm_task(), soon())
        await client.close()
        assert answer.regions[0] is not None
        return answer.regions[0].label

    assert asyncio.run(ask()) == "thread"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fail(429, retry_after=2, times=None), Reason.RATE_LIMITED),
        (Fail(503, times=None), Reason.SERVER_ERROR),
        (Fail(400, code="context_length_exceeded", message="context length exceeded", times=None), Reason.TOO_LONG),
        (Delay(3 * DEADLINE), Reason.TIMEOUT),
    ],
    ids=["rate limit", "outage", "context overflow", "delay"],
)
def test_llmock_faults(fault: Fail | Delay, reason: Reason) -> None:
    with LLMockServer() as mock:
        mock.state.scenarios.add(fault)
        found = failure(mock.base_url("openai"))
    assert found.error.reason is reason
    assert found.late <= GRACE


@pytest.fixture(scope="module")
def talking(server: LlmServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("talking")
    write_bundle(folder / "models", "probe", 1)
    (folder / "probe.yaml").write_text("{product: probe, name: plate, may_leave: true}")
    options = {"llm_base_url": server.base_url, "llm_model": "vision", "llm_deadline_s": DEADLINE}
    with running(folder / "models", products_dir=folder, **options) as made:
        yield made


DARK = grey_picture()
DARK[30:80, 140:200] = 0


def forgiven(service: Service) -> None:
    """Faults have opened the circuit breaker: close it, so that the LLM is asked again."""
    assert service.state.llm is not None
    service.state.llm.breaker = CircuitBreaker(5, 30.0, time.monotonic)


@pytest.mark.parametrize("name", FAULTS)
def test_no_fault_of_the_llm_costs_the_answer(talking: Service, server: LlmServer, name: str) -> None:
    reply, reason = FAULTS[name]
    late = []
    for _ in range(TRIES):
        forgiven(talking)
        server.script(reply)
        started = time.monotonic()
        answer = talking.client.post("/classify?store=none", files={"image": ("a.png", png(DARK))})
        took = time.monotonic() - started
        assert answer.status_code == 200
        (result,) = answer.json()["results"]
        words = result["regions"][0]["classification"]
        assert (words["source"], words["degraded"], words["fallback_reason"]) == ("rules", True, reason.value)
        assert words["description"]
        late.append(took - sum(result["timings_ms"].values()) / 1000 - DEADLINE)
        if late[-1] <= GRACE:
            break
    assert min(late) <= GRACE


def test_after_all_faults_it_still_speaks(talking: Service, server: LlmServer) -> None:
    forgiven(talking)
    server.script(completion(answer_json(regions=1)))
    words = talking.client.post("/classify", files={"image": ("b.png", png(DARK))}).json()["results"][0]
    assert words["classification"]["source"] == "llm"


def test_the_faults_are_as_many_as_promised() -> None:
    assert len(FAULTS) >= 25
