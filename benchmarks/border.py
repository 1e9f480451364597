"""What the border's own quantiles are worth: the bundled model with and without them, in one run on generated parts.

python -m benchmarks.border --json benchmarks/results/border.json
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, tell
from service.bundle.store import Bundle, EngineOptions, load_bundle
from service.samples import write_dataset
from service.training.evaluate import evaluate, find_test_images, score_all
from service.types import Border


def figures(bundle: Bundle, data: Path) -> dict[str, Any]:
    """Image AUROC, in all and by flaw, and pixel figures; thresholds do not enter into them."""
    result = evaluate(bundle, score_all(bundle, find_test_images(data)))
    return {
        "image_auroc": round(result.image_auroc, 4),
        "pixel_auroc": None if result.pixel_auroc is None else round(result.pixel_auroc, 4),
        "au_pro": None if result.au_pro is None else round(result.au_pro, 4),
        "by_defect": {defect: round(row["image_auroc"], 4) for defect, row in result.by_defect.items()},
    }


def main() -> None:
    """Judge the same parts twice and write both rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/polka-dot/1"))
    parser.add_argument("--kind", default="polka-dot")
    parser.add_argument("--seed", type=int, default=11, help="a batch that no other result is made of")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    bundle = load_bundle(options.bundle, EngineOptions(provider="cpu"))
    without = replace(bundle, manifest=bundle.manifest.model_copy(update={"border": Border()}))
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(options.kind, Path(folder) / "parts", 40, options.seed, flawed=8)
        rows = {name: figures(each, Path(folder) / "parts") for name, each in (("with", bundle), ("without", without))}
    result = {
        "machine": describe(),
        "bundle": f"{bundle.manifest.name} {bundle.manifest.version}",
        "form": bundle.form_name,
        "teacher_sha256": bundle.manifest.teacher.sha256[:12],
        "parts": {"kind": options.kind, "seed": options.seed, "good": 40, "flawed_each": 8},
        "border_quantiles": bundle.manifest.border.structural,
        "rows": rows,
    }
    tell(result, options.json)


if __name__ == "__main__":
    main()
