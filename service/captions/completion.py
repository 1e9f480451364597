"""Reads what an OpenAI-compatible endpoint sent back: a chat completion, or an error that becomes a reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import openai
from pydantic import BaseModel, ValidationError

from service.captions.answer import LlmUnavailable, Reason

_BY_STATUS = {
    401: Reason.UNAUTHORIZED,
    403: Reason.UNAUTHORIZED,
    404: Reason.NOT_FOUND,
    408: Reason.TIMEOUT,
    413: Reason.TOO_LONG,
    429: Reason.RATE_LIMITED,
}
_BY_FINISH = {
    "length": Reason.CUT_SHORT,
    "content_filter": Reason.CONTENT_FILTER,
    "tool_calls": Reason.MALFORMED,
    "function_call": Reason.MALFORMED,
}
_MOST_RETRY_AFTER = 3600.0
_FORM_WORDS = ("response_format", "json_schema", "grammar")  # some servers fail inside where they cannot do a form
_CONTENTS_REFUSED = {
    "content filter": Reason.CONTENT_FILTER,
    "content policy": Reason.CONTENT_FILTER,
    "content management policy": Reason.CONTENT_FILTER,
    "context length": Reason.TOO_LONG,
    "context size": Reason.TOO_LONG,
    "too many tokens": Reason.TOO_LONG,
}


class _Message(BaseModel):
    content: str | list[dict[str, Any]] | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Tokens(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Completion(BaseModel):
    """A chat completion, as far as it is read here."""

    choices: list[_Choice]
    model: str | None = None
    usage: _Tokens | None = None


def read_completion(body: bytes) -> Completion:
    """The chat completion in `body`. Raises LlmUnavailable `not_json` or `malformed`."""
    try:
        return Completion.model_validate_json(body)
    except ValidationError as error:
        kind = error.errors(include_url=False, include_input=False, include_context=False)[0]["type"]
        reason = Reason.NOT_JSON if kind == "json_invalid" else Reason.MALFORMED
        raise LlmUnavailable(reason, "the endpoint's answer is no chat completion") from error


def finished_text(completion: Completion) -> str:
    """The text of the first choice. Raises LlmUnavailable where the model refused or did not finish."""
    if not completion.choices:
        raise LlmUnavailable(Reason.EMPTY, "the endpoint's answer has no choices")
    choice = completion.choices[0]
    if choice.message.refusal:
        raise LlmUnavailable(Reason.REFUSED, choice.message.refusal[:200])
    if choice.finish_reason in _BY_FINISH:
        raise LlmUnavailable(_BY_FINISH[choice.finish_reason], f"the answer ended with {choice.finish_reason}")
    content = choice.message.content or ""
    if isinstance(content, str):
        return content
    return "".join(str(part.get("text", "")) for part in content)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP status other than success and what was said with it. `retry_after`: seconds."""

    status: int
    message: str
    retry_after: float | None

    @classmethod
    def of(cls, error: openai.APIStatusError) -> Refusal:
        """From the library's error."""
        message = f"{error.code or ''} {error.param or ''} {error.message}"[:2000]
        return cls(error.status_code, message, _seconds(error.response.headers.get("Retry-After", "")))

    @property
    def of_form(self) -> bool:
        """Whether the request may be accepted in another form: not when it was its contents that were refused."""
        if self.status in (400, 422, 501):
            return self._of_contents() is None
        return self.status == 500 and any(word in self.message.lower() for word in _FORM_WORDS)

    def failure(self) -> LlmUnavailable:
        """The refusal as the failure that it is."""
        reason = self._of_contents() or _BY_STATUS.get(self.status)
        if reason is None:
            other = Reason.REDIRECT if self.status < 400 else Reason.BAD_REQUEST
            reason = Reason.SERVER_ERROR if self.status >= 500 else other
        return LlmUnavailable(reason, f"the endpoint answered {self.status}", retry_after=self.retry_after)

    def _of_contents(self) -> Reason | None:
        if not 400 <= self.status < 500:
            return None
        said = self.message.lower().replace("_", " ")
        return next((reason for words, reason in _CONTENTS_REFUSED.items() if words in said), None)


def _seconds(header: str) -> float | None:
    """Seconds of a Retry-After header, an hour at most; a date, nonsense or a negative number count as none."""
    try:
        seconds = float(header)
    except ValueError:
        return None
    return min(seconds, _MOST_RETRY_AFTER) if seconds >= 0 else None
