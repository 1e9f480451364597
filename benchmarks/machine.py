"""What every benchmark ends with: the machine it was measured on, in the words of `flawscribe bench`, and its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.bench.machine import describe

__all__ = ["describe", "keep", "tell"]


def tell(result: Mapping[str, Any], file: Path | None) -> None:
    """Print the result as JSON, and keep it in `file` if one is given."""
    keep(result, file)
    print(json.dumps(result, indent=1))


def keep(result: Mapping[str, Any], file: Path | None) -> None:
    """The result so far in `file`, if one is given, whole or not at all."""
    if file is not None:
        unfinished = file.with_name(f".{file.name}.unfinished")
        unfinished.write_text(json.dumps(result, indent=1) + "\n")
        unfinished.replace(file)
