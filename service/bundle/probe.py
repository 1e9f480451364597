"""`python -m service.bundle.probe FOLDER`: load a bundle on the CPU and leave; the exit code and last line tell."""

from __future__ import annotations

import sys
from pathlib import Path

from service.bundle.store import EngineOptions, load_bundle
from service.errors import FlawscribeError


def main() -> int:
    """0 when the bundle loads and meets its golden pictures."""
    try:
        load_bundle(Path(sys.argv[1]), EngineOptions(provider="cpu"))
    except FlawscribeError as error:
        print(error.detail, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
