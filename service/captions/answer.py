"""The LLM's answer and its failures, as records. Nothing in here needs the openai package."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from service.types import Severity


class Reason(StrEnum):
    """Why there is no answer of the LLM: the `fallback_reason` of a classification and the outcome in the metrics."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    REDIRECT = "redirect"
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    RATE_LIMITED = "rate_limited"
    BAD_REQUEST = "bad_request"
    TOO_LONG = "too_long"
    SERVER_ERROR = "server_error"
    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    MALFORMED = "malformed"
    REFUSED = "refused"
    CUT_SHORT = "cut_short"
    CONTENT_FILTER = "content_filter"
    EMPTY = "empty"
    INVALID_ANSWER = "invalid_answer"
    WRONG_LANGUAGE = "wrong_language"
    CONTRADICTS_VERDICT = "contradicts_verdict"  # of an entry, never of a whole answer
    BUSY = "busy"
    CIRCUIT_OPEN = "circuit_open"
    BUDGET = "budget"


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost. `calls`: HTTP requests sent; `untold`: those of them whose tokens the endpoint did not tell."""

    tokens_in: int = 0
    tokens_out: int = 0
    calls: int = 0
    untold: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            self.calls + other.calls,
            self.untold + other.untold,
        )


class LlmUnavailable(Exception):
    """The LLM gave no usable answer; the caller goes on with the rules.

    `retry_after`: seconds for which the endpoint asked to be left alone. `usage`: what was spent all the same.
    """

    def __init__(
        self, reason: Reason, detail: str, *, retry_after: float | None = None, usage: Usage | None = None
    ) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.retry_after = retry_after
        self.usage = usage or Usage()


@dataclass(frozen=True, slots=True)
class Cause:
    """A likely cause; `case_ids` are among those that the task gave."""

    text: str
    case_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LlmCaption:
    """A flaw in the LLM's words, checked. `description`: one line of at most ten words; `severity`: only a suggestion;
    `label`: of the taxonomy, `unknown`, or new (`is_new_type`); `confidence`: 0..1, as stated, not calibrated."""

    label: str
    description: str
    severity: Severity | None = None
    causes: tuple[Cause, ...] = ()
    action: str = ""
    confidence: float | None = None
    is_new_type: bool = False

    @property
    def cited_case_ids(self) -> tuple[str, ...]:
        """All case ids that the causes cite, each once."""
        return tuple(dict.fromkeys(case_id for cause in self.causes for case_id in cause.case_ids))


@dataclass(frozen=True, slots=True)
class LlmSummary:
    """A report summed up: `text` of at most 1,200 characters, plain, without anything checked but its length."""

    text: str
    model: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class LlmAnswer:
    """The LLM's answer to one task. None stands for an entry that it did not give, or that was dropped: there the rules speak.

    `regions`: one entry for each of the task's regions, in order. `flags`: what was put right, such as
    `cited_unknown_case:region-1` or `contradicts_verdict:picture`.
    """

    picture: LlmCaption | None
    regions: tuple[LlmCaption | None, ...]
    prompt_version: str
    model: str
    usage: Usage = field(default_factory=Usage)
    flags: tuple[str, ...] = ()
