"""What every benchmark ends with: the machine it was measured on, in the words of `flawscribe bench`, and its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.bench.machine import describe

__all__ = ["describe", "tell"]


def tell(result: Mapping[str, Any], file: Path | None) -> None:
    """Print the result as JSON, and keep it in `file` if one is given."""
    text = json.dumps(result, indent=1) + "\n"
    if file is not None:
        file.write_text(text)
    print(text, end="")
