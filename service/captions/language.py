"""Which language a short answer is written in, as far as its letters and small words tell."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

import yaml

_WORD = re.compile(r"\w+")
_FEWEST_LETTERS = 8  # less tells nothing of the script
_FEWEST_WORDS = 2


@dataclass(frozen=True, slots=True)
class Language:
    """A language an answer may be asked in; `words`: small words that mark it among those of the same script."""

    code: str
    name: str
    scripts: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Languages:
    """All languages known here, by their code (ISO 639-1)."""

    known: Mapping[str, Language]

    def get(self, code: str) -> Language:
        """The language of a code such as `en` or `de-CH`; one that is not known is asked for by its code and not checked."""
        base = code.replace("_", "-").split("-", 1)[0].lower()
        return self.known.get(base) or Language(base, code)

    def differs(self, text: str, wanted: Language) -> bool:
        """True where `text` is clearly in another language than `wanted`; in doubt false."""
        if not wanted.scripts:
            return False
        letters = [letter for letter in text if letter.isalpha()]
        if len(letters) < _FEWEST_LETTERS:
            return False
        own = sum(unicodedata.name(letter, "").startswith(wanted.scripts) for letter in letters)
        if own < len(letters) / 2:
            return True
        counts = {language.code: self._hits(text, language) for language in self.known.values()}
        most = max(counts.values())
        return most >= _FEWEST_WORDS and most > 2 * counts[wanted.code]

    def _hits(self, text: str, language: Language) -> int:
        return sum(word in language.words for word in _WORD.findall(text.casefold()))


def load_languages() -> Languages:
    """The languages of prompts/languages.yaml."""
    source = yaml.safe_load((files("service.captions") / "prompts" / "languages.yaml").read_text("utf-8"))
    return Languages(
        {
            code: Language(code, row["name"], tuple(row["scripts"]), frozenset(row["words"]))
            for code, row in source.items()
        }
    )
