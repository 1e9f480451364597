"""The form of the LLM's answer: the JSON schema it is asked in, and the parsing of what came instead."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from service.captions.answer import LlmUnavailable, Reason
from service.types import Severity

_FENCE = re.compile(r"```(?:json)?\s*(.*?)```", re.DOTALL)


class WireCause(BaseModel):
    """A cause as it is asked for."""

    text: str | None = None
    case_ids: list[str | int] | None = None


class WireEntry(BaseModel):
    """What is asked for of the picture and of each region."""

    label: str | None = None
    description: str | None = None
    severity: str | None = None
    causes: list[WireCause | str] | None = None
    action: str | None = None
    confidence: float | None = None
    is_new_type: bool | None = None


class WireRegion(WireEntry):
    """An entry with its region's number, from 1."""

    region: int | None = None


class WireAnswer(BaseModel):
    """The whole answer. Fields may be missing: not every endpoint enforces the schema."""

    picture: WireEntry | None = None
    regions: list[WireRegion] | None = None


def answer_schema() -> dict[str, Any]:
    """The JSON schema that is asked for: every field required and nullable, no patterns or limits, nothing else allowed."""
    text = {"type": ["string", "null"]}
    cause = _object({"text": text, "case_ids": {"type": ["array", "null"], "items": {"type": "string"}}})
    severity = {"type": ["string", "null"], "enum": [*(word.value for word in Severity), None]}
    entry = {
        "label": text,
        "description": text,
        "severity": severity,
        "causes": {"type": ["array", "null"], "items": cause},
        "action": text,
        "confidence": {"type": ["number", "null"]},
        "is_new_type": {"type": ["boolean", "null"]},
    }
    region = _object({"region": {"type": ["integer", "null"]}, **entry})
    return _object({"picture": _object(entry), "regions": {"type": ["array", "null"], "items": region}})


def parse_answer(content: str) -> WireAnswer:
    """The answer in `content`, fenced or with words about it. Raises LlmUnavailable `invalid_answer`."""
    for text in _candidates(content):
        try:
            value = from_json(text, allow_inf_nan=True)
        except ValueError:
            continue
        if not isinstance(value, dict):
            continue
        if not {"picture", "regions"} & value.keys() and "description" in value:
            value = {"picture": value, "regions": [value]}  # small models leave the outer object away
        try:
            return WireAnswer.model_validate(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise LlmUnavailable(Reason.INVALID_ANSWER, f"field {place}: {first['msg']}") from error
    raise LlmUnavailable(Reason.INVALID_ANSWER, "the answer holds no JSON object")


def _candidates(content: str) -> Iterator[str]:
    """Where the JSON may be: all of it, inside a fence, or from the first brace to the last."""
    plain = content.rpartition("</think>")[2].strip()  # what a reasoning model thought aloud comes before
    yield plain
    yield from _FENCE.findall(plain)
    if "{" in plain and "}" in plain:
        yield plain[plain.index("{") : plain.rindex("}") + 1]


def by_region(answer: WireAnswer, count: int) -> list[WireEntry | None]:
    """An entry a region, by its number; in order where no numbers were given. The first entry of a number holds."""
    given = answer.regions or []
    placed: list[WireEntry | None] = [None] * count
    if all(entry.region is None for entry in given):
        return [*given[:count], *placed[len(given) :]]
    for entry in reversed(given):
        if entry.region is not None and 1 <= entry.region <= count:
            placed[entry.region - 1] = entry
    return placed


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }
