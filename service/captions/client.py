"""Asks a vision LLM behind any OpenAI-compatible endpoint. Every way it can fail becomes LlmUnavailable with a reason."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import httpx2
import openai
from openai.types.chat import ChatCompletionMessageParam

from service.captions.answer import LlmAnswer, LlmSummary, LlmUnavailable, Reason, Usage
from service.captions.answer_form import answer_schema
from service.captions.completion import Completion, Refusal, finished_text, read_completion
from service.captions.dialect import Dialect
from service.captions.prompt import LlmTask, Message, Prompts, load_prompts
from service.captions.reading import Reading, read_answer
from service.captions.transport import http_client
from service.errors import SettingsError

_MOST_SUMMARY = 1200  # characters
_ASKED_AGAIN = {Reason.INVALID_ANSWER, Reason.WRONG_LANGUAGE, Reason.EMPTY}


@dataclass(frozen=True, slots=True)
class LlmSettings:
    """Where the LLM is. `base_url`: such as https://api.openai.com/v1 or http://localhost:11434/v1; `api_key`: may be empty.

    `most_bytes`: the largest body read. `ca_file`, `proxy`: for networks that need them; the environment is not read.
    """

    base_url: str
    model: str
    api_key: str = field(default="", repr=False)
    max_tokens: int = 1500
    temperature: float = 0.0
    connect_seconds: float = 5.0
    most_bytes: int = 1 << 20
    ca_file: Path | None = None
    proxy: str | None = None


@dataclass(slots=True)
class _Spent:
    """What a task has cost so far, over all tries."""

    usage: Usage = field(default_factory=Usage)
    model: str = ""

    def begin(self) -> None:
        self.usage += Usage(calls=1, untold=1)

    def told(self, completion: Completion) -> None:
        self.model = (completion.model or self.model)[:100]
        tokens = completion.usage
        if tokens and tokens.prompt_tokens is not None:
            self.usage += Usage(max(tokens.prompt_tokens, 0), max(tokens.completion_tokens or 0, 0), untold=-1)


class LlmClient:
    """One endpoint and one model. Safe for many tasks at once on one event loop; what it learns of the endpoint it keeps."""

    def __init__(self, settings: LlmSettings, prompts: Prompts | None = None) -> None:
        """Connects to nothing yet. Raises SettingsError for an address or a key that cannot be sent."""
        if not re.match(r"https?://[^/\s]+", settings.base_url):
            raise SettingsError(f"the LLM's address {settings.base_url!r} is not an http or https URL")
        if not (settings.api_key.isascii() and settings.api_key.isprintable()):
            raise SettingsError("the LLM's API key has characters that no HTTP header can hold")
        self.settings = settings
        self.prompts = prompts or load_prompts()
        self.dialect = Dialect()
        self._schema = answer_schema()
        self._openai = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=settings.api_key or "none",  # local servers need none, the library insists on one
            admin_api_key="",
            max_retries=0,
            http_client=http_client(settings.base_url, settings.most_bytes, settings.ca_file, settings.proxy),
        )
        self._openai.organization = self._openai.project = None  # the library takes them from the environment

    async def close(self) -> None:
        """Close all connections; tasks under way fail."""
        await self._openai.close()

    def key(self, task: LlmTask) -> str:
        """sha256 hex of all that decides the answer to `task`."""
        return self.prompts.key(task, self.settings.model)

    async def caption(self, task: LlmTask, deadline: float) -> LlmAnswer:
        """The LLM's words for `task`, by `deadline` (time.monotonic) over all tries. Raises LlmUnavailable, nothing else."""
        spent = _Spent(model=self.settings.model)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                reading = await self._conversation(task, deadline, spent)
        except TimeoutError as error:
            raise LlmUnavailable(Reason.TIMEOUT, "no answer before the deadline", usage=spent.usage) from error
        except LlmUnavailable as failure:
            failure.usage = spent.usage
            raise
        return LlmAnswer(
            picture=reading.picture,
            regions=reading.regions,
            prompt_version=self.prompts.version(task.profile),
            model=spent.model,
            usage=spent.usage,
            flags=reading.flags,
        )

    async def summarise(self, facts: str, deadline: float) -> LlmSummary:
        """A report's facts (JSON) summed up in words, by `deadline` (time.monotonic). Raises LlmUnavailable, nothing else."""
        spent = _Spent(model=self.settings.model)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                content = await self._ask(self.prompts.summary_messages(facts), deadline, spent, text=True)
        except TimeoutError as error:
            raise LlmUnavailable(Reason.TIMEOUT, "no summary by the deadline", usage=spent.usage) from error
        except LlmUnavailable as failure:
            failure.usage = spent.usage
            raise
        text = " ".join(content.split())
        if not text:
            raise LlmUnavailable(Reason.EMPTY, "the summary is empty", usage=spent.usage)
        return LlmSummary(text[:_MOST_SUMMARY], spent.model, spent.usage)

    async def _conversation(self, task: LlmTask, deadline: float, spent: _Spent) -> Reading:
        """Ask, and once more where the answer can be expected to become better and as much time as the first took is left."""
        began = time.monotonic()
        messages = self.prompts.messages(task)
        content = await self._ask(messages, deadline, spent)
        usable: Reading | None = None
        try:
            usable = self._read(content, task)
            if usable.complaint is None:
                return usable
            complaint = usable.complaint
        except LlmUnavailable as failure:
            if failure.reason not in _ASKED_AGAIN or not _time_left(began, deadline):
                raise
            complaint = failure.detail
        if usable and not _time_left(began, deadline):
            return usable
        said = {"role": "assistant", "content": content[:4000] or "{}"}
        return await self._second(task, [*messages, said, self.prompts.again(task, complaint)], deadline, spent, usable)

    async def _second(
        self, task: LlmTask, messages: list[Message], deadline: float, spent: _Spent, usable: Reading | None
    ) -> Reading:
        """The second answer, or the first where that was usable and the second is not."""
        left = deadline - time.monotonic()
        try:
            async with asyncio.timeout(left * 0.95 if usable else None):  # a usable answer must still get out in time
                return self._read(await self._ask(messages, deadline, spent), task)
        except (LlmUnavailable, TimeoutError):
            if usable:
                return usable
            raise

    def _read(self, content: str, task: LlmTask) -> Reading:
        return read_answer(content, task, self.prompts.languages)

    async def _ask(self, messages: list[Message], deadline: float, spent: _Spent, *, text: bool = False) -> str:
        """The answer's text, asked for in the best form that the endpoint can do (or as plain `text`); the form that worked
        is remembered."""
        dialect = replace(self.dialect, form="text") if text else self.dialect
        while True:
            try:
                body = await self._post(messages, dialect, deadline, spent)
            except openai.APIStatusError as error:
                refusal = Refusal.of(error)
                following = dialect.after_refusal(refusal.message) if refusal.of_form else None
                if following is None:
                    raise refusal.failure() from error
                dialect = following
                continue
            completion = read_completion(body)
            spent.told(completion)
            content = finished_text(completion)
            self.dialect = replace(dialect, form=self.dialect.form) if text else dialect
            return content

    async def _post(self, messages: list[Message], dialect: Dialect, deadline: float, spent: _Spent) -> bytes:
        left = max(0.001, deadline - time.monotonic())
        timeout = openai.Timeout(left, connect=min(left, self.settings.connect_seconds))
        asked = dialect.arguments(self._schema, self.settings.max_tokens, self.settings.temperature)
        spent.begin()
        with _connection_failures():
            response: Any = await self._openai.chat.completions.with_raw_response.create(
                model=self.settings.model,
                messages=cast(list[ChatCompletionMessageParam], messages),
                timeout=timeout,
                **asked,
            )
            body: bytes = response.http_response.content
        return body


@contextmanager
def _connection_failures() -> Iterator[None]:
    """Errors below HTTP, each as its reason."""
    try:
        yield
    except openai.APITimeoutError as error:
        raise LlmUnavailable(Reason.TIMEOUT, "the endpoint did not answer in time") from error
    except openai.APIConnectionError as error:
        cause = type(error.__cause__).__name__
        raise LlmUnavailable(Reason.CONNECTION, f"the connection failed ({cause})") from error
    except openai.APIStatusError:
        raise
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, RuntimeError) as error:  # a closed client is a RuntimeError
        raise LlmUnavailable(Reason.CONNECTION, f"the connection failed ({type(error).__name__})") from error
    except openai.OpenAIError as error:
        raise LlmUnavailable(Reason.MALFORMED, f"the endpoint's answer cannot be read ({error})") from error


def _time_left(began: float, deadline: float) -> bool:
    """Whether another try is likely to end before the deadline: as long as the first took must be left."""
    now = time.monotonic()
    return deadline - now > now - began
