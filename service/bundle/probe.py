"""`python -m service.bundle.probe FOLDER`: load a bundle on the CPU and leave; exit code and last line tell."""

from __future__ import annotations

import sys
from pathlib import Path

from service.bundle.load import EngineOptions, load_bundle
from service.bundle.verify import verify
from service.engine.session import open_session
from service.errors import FlawscribeError


def main() -> int:
    """0 when every network of the bundle loads, and one form meets its golden pictures."""
    folder = Path(sys.argv[1])
    try:
        verified = verify(folder)
        for file in sorted({form.file for form in verified.manifest.forms.values()}):
            open_session(verified.files[file], form="float32", provider="cpu")
        load_bundle(folder, EngineOptions(provider="cpu"))
    except FlawscribeError as error:
        print(error.detail, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
