"""What is asked of the LLM about one inspected picture, and the messages that ask it. The words lie in prompts/*.yaml."""

from __future__ import annotations

import base64
import hashlib
import json
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.resources import files
from string import Template
from typing import Any

import yaml

from service.captions.composite import Picture, Pictures
from service.captions.language import Languages, load_languages
from service.errors import SettingsError
from service.types import Attributes, Region

PROFILES = ("default", "matlab")
MOST_CONTEXT = 2000  # characters of the sender's free text that are passed on

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LabelWords:
    """A label of the product's taxonomy, what it means, and what the product card knows of it."""

    label: str
    words: str = ""
    causes: tuple[str, ...] = ()
    action: str = ""


@dataclass(frozen=True, slots=True)
class LlmRegion:
    """A region and what the rules say of it."""

    region: Region
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class LlmCase:
    """A reviewed past flaw that looks alike. `distance`: cosine distance, 0..2."""

    case_id: str
    label: str
    cause: str = ""
    action: str = ""
    distance: float = 0.0


@dataclass(frozen=True, slots=True)
class LlmTask:
    """Everything the LLM is told of one picture. The caller has made sure that the product's pictures may leave.

    `margin`: in words, such as "2.1 x the threshold". `language`: ISO 639-1 code. `pictures`: one composite a region; its
    reference is the normal picture nearest to this one. `context`: the sender's free text, never trusted.
    """

    product: str
    normal: str
    taxonomy: tuple[LabelWords, ...]
    score: float
    threshold: float
    margin: str
    regions: tuple[LlmRegion, ...]
    pictures: Pictures
    cases: tuple[LlmCase, ...] = ()
    context: str = ""
    language: str = "en"
    profile: str = "default"


@dataclass(frozen=True, slots=True)
class PromptProfile:
    """One prompt file. `version` holds the file's digest, so that no wording changes under an old version."""

    version: str
    system: str
    messages: tuple[Mapping[str, Any], ...]
    again: str
    max_regions: int


@dataclass(frozen=True, slots=True)
class Prompts:
    """Turns tasks into the messages of an OpenAI-compatible chat request."""

    profiles: Mapping[str, PromptProfile]
    languages: Languages
    summary: str = ""

    def version(self, profile: str) -> str:
        """What an answer of this profile carries, such as `default-1.3f0c2a91`."""
        return self._profile(profile).version

    def asked_regions(self, task: LlmTask) -> int:
        """How many of the task's regions are shown: the first ones, highest peak first."""
        return min(len(task.regions), len(task.pictures.composites), self._profile(task.profile).max_regions)

    def messages(self, task: LlmTask) -> list[Message]:
        """System and user messages, pictures as data URIs. Raises SettingsError for a profile that does not exist."""
        profile = self._profile(task.profile)
        values = self._values(task)
        system = {"role": "system", "content": Template(profile.system).substitute(values).strip()}
        return [system, *(_message(message, task, values) for message in profile.messages)]

    def again(self, task: LlmTask, complaint: str) -> Message:
        """The user message that asks once more, with what was wrong."""
        text = Template(self._profile(task.profile).again).substitute(complaint=complaint)
        return {"role": "user", "content": text.strip()}

    def summary_messages(self, facts: str) -> list[Message]:
        """The messages that ask to sum up a report's `facts`, one JSON object that is data."""
        return [
            {"role": "system", "content": self.summary},
            {"role": "user", "content": [{"type": "text", "text": f"The report's figures (JSON):\n{fenced(facts)}"}]},
        ]

    def key(self, task: LlmTask, model: str) -> str:
        """sha256 of all that decides the answer: pictures with their masks, model, prompt version, taxonomy, cases, words."""
        shown = task.pictures
        pictures = (shown.boxed, *shown.composites, shown.reference, shown.reference_composite)
        hashes = [hashlib.sha256(picture.data).hexdigest() if picture else "" for picture in pictures]
        # an answer has an entry for each region, also for those that are not shown
        told = (model, self.version(task.profile), len(task.regions), hashes, sorted(self._values(task).items()))
        return hashlib.sha256(repr(told).encode()).hexdigest()

    def _profile(self, name: str) -> PromptProfile:
        if name not in self.profiles:
            raise SettingsError(f"no prompt profile {name!r}; there are: {', '.join(self.profiles)}")
        return self.profiles[name]

    def _values(self, task: LlmTask) -> dict[str, str]:
        count = self.asked_regions(task)
        types = [{name: said for name, said in asdict(item).items() if said} for item in task.taxonomy]
        rows = [_region_row(number, item) for number, item in enumerate(task.regions[:count], start=1)]
        return {
            "product": _one_line(task.product),
            "normal": _one_line(task.normal),
            "taxonomy": _json(types),
            "labels": ", ".join(_json(item.label) for item in task.taxonomy),
            "score": f"{task.score:.3g}",
            "threshold": f"{task.threshold:.3g}",
            "margin": task.margin,
            "count": str(count),
            "regions": _json(rows),
            "cases": fenced("\n".join(_json(asdict(case)) for case in task.cases)),
            "context": fenced(_json(_one_line(task.context, MOST_CONTEXT))),
            "language": self.languages.get(task.language).name,
        }


def load_prompts() -> Prompts:
    """The prompts that are part of this package."""
    summary = yaml.safe_load((files("service.captions") / "prompts" / "report.yaml").read_bytes())["system"]
    return Prompts({name: _load(name) for name in PROFILES}, load_languages(), summary.strip())


def fenced(text: str) -> str:
    """`text` between marks that it cannot hold itself: they carry its own digest, and look-alikes in it are broken up."""
    tame = text.replace("<<<", "< < <").replace(">>>", "> > >")
    mark = hashlib.sha256(tame.encode()).hexdigest()[:12]
    return f"<<<DATA {mark}\n{tame}\nDATA>>> {mark}"


def _load(name: str) -> PromptProfile:
    raw = (files("service.captions") / "prompts" / f"{name}.yaml").read_bytes()
    source = yaml.safe_load(raw)
    digest = hashlib.sha256(raw.replace(b"\r\n", b"\n")).hexdigest()[:8]
    return PromptProfile(
        version=f"{name}-{source['version']}.{digest}",
        system=source["system"],
        messages=tuple(source["messages"]),
        again=source["again"],
        max_regions=int(source["max_regions"]),
    )


def _message(source: Mapping[str, Any], task: LlmTask, values: Mapping[str, str]) -> Message:
    parts = [part for entry in source["parts"] if _wanted(entry, task) for part in _parts(entry, task, values)]
    return {"role": source["role"], "content": parts}


def _wanted(entry: Mapping[str, Any], task: LlmTask) -> bool:
    """Whether a part's condition holds: `when` names what must be there."""
    there = {"reference": task.pictures.reference, "cases": task.cases, "context": task.context.strip()}
    return "when" not in entry or bool(there[entry["when"]])


def _parts(entry: Mapping[str, Any], task: LlmTask, values: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    if "each" not in entry:
        named = {name: getattr(task.pictures, name) for name in ("boxed", "reference", "reference_composite")}
        yield from _text_and_picture(entry, values, named.get(entry.get("picture", "")))
        return
    for number in range(1, int(values["count"]) + 1):
        yield from _text_and_picture(entry, {**values, "number": str(number)}, task.pictures.composites[number - 1])


def _text_and_picture(
    entry: Mapping[str, Any], values: Mapping[str, str], picture: Picture | None
) -> Iterator[dict[str, Any]]:
    if "text" in entry:
        yield {"type": "text", "text": Template(entry["text"]).substitute(values).strip()}
    if picture is not None:
        data = base64.b64encode(picture.data).decode()
        yield {"type": "image_url", "image_url": {"url": f"data:{picture.media_type};base64,{data}"}}


def _region_row(number: int, item: LlmRegion) -> dict[str, Any]:
    said = {name: words for name, words in asdict(item.attributes).items() if words}
    return {"region": number, "box": item.region.box, "kind": item.region.kind, **said}


def _one_line(text: str, most: int = 500) -> str:
    """`text` without control characters or line breaks, cut at `most` characters."""
    plain = "".join(" " if unicodedata.category(letter)[0] in "CZ" else letter for letter in text)
    return " ".join(plain.split())[:most]


_json = partial(json.dumps, ensure_ascii=False)
