"""What an OpenAI-compatible endpoint can do, learned from its first refusals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

FORMS = ("json_schema", "json_object", "text")
_LIMITS = ("max_tokens", "max_completion_tokens", "")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the endpoint is spoken to. `form`: of the answer; `limit`: the name of the answer's token limit ("" for none)."""

    form: str = "json_schema"
    limit: str = "max_tokens"
    temperature: bool = True

    def arguments(self, schema: Mapping[str, Any], max_tokens: int, temperature: float) -> dict[str, Any]:
        """Arguments of chat.completions.create that ask for an answer of `schema`."""
        asked: dict[str, Any] = {}
        if self.form == "json_schema":
            described = {"name": "flaws", "strict": True, "schema": schema}
            asked["response_format"] = {"type": "json_schema", "json_schema": described}
        elif self.form == "json_object":
            asked["response_format"] = {"type": "json_object"}
        if self.limit:
            asked[self.limit] = max_tokens
        if self.temperature:
            asked["temperature"] = temperature
        return asked

    def after_refusal(self, message: str) -> Dialect | None:
        """The dialect to try next when a request was refused with `message` (400, 422 or 501); None when nothing is left.

        A message that names no argument is taken as a refusal of the answer's form: some endpoints only say "bad request".
        """
        said = message.lower()
        if self.temperature and "temperature" in said:
            return replace(self, temperature=False)
        if self.limit and self.limit in said:
            return replace(self, limit=next(_after(_LIMITS, self.limit)))
        form = next(_after(FORMS, self.form), None)
        return None if form is None else replace(self, form=form)


def _after(words: tuple[str, ...], word: str) -> Iterator[str]:
    return iter(words[words.index(word) + 1 :])
