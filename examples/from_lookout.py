"""A manifest of Amazon Lookout for Vision to the folders that `flawscribe train` and `flawscribe evaluate` read.

    python examples/from_lookout.py train.manifest FETCHED OUT            # normal pictures go to OUT/train/good
    python examples/from_lookout.py test.manifest FETCHED OUT --test      # normal pictures go to OUT/test/good

FETCHED holds the pictures and masks, fetched before: aws s3 sync s3://BUCKET FETCHED. Nothing in it is changed.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def find(address: str, fetched: Path) -> Path:
    """The file of an S3 address, below `fetched` by as much of its path as is there."""
    parts = address.removeprefix("s3://").split("/")[1:]
    for first in range(len(parts)):
        if (file := fetched.joinpath(*parts[first:])).is_file():
            return file
    raise SystemExit(f"{address} is not in {fetched}: fetch it first")


def types_of(mask: np.ndarray, color_map: dict) -> dict[str, np.ndarray]:
    """Where each anomaly type of a mask is: bool [H,W]."""
    found = {}
    for entry in color_map.values():
        name, color = entry["class-name"], entry["hex-color"].lstrip("#")
        where = (mask == [int(color[i : i + 2], 16) for i in (0, 2, 4)]).all(axis=2)
        if name.lower() != "background" and where.any():
            found[name] = where
    return found


def sort_in(line: dict, fetched: Path, out: Path, use: str) -> Path:
    """Copy one picture, and its mask in white on black, to where they belong; returns the picture's place."""
    picture = find(line["source-ref"], fetched)
    name = "_".join(picture.relative_to(fetched).parts)  # pictures of different folders may have one name
    if line["anomaly-label-metadata"]["class-name"] == "normal":
        place = out / use / "good" / name
    else:
        kind, where = "anomaly", None
        if "anomaly-mask-ref" in line:
            with Image.open(find(line["anomaly-mask-ref"], fetched)) as mask:
                colours = np.asarray(mask.convert("RGB"))
            types = types_of(colours, line["anomaly-mask-ref-metadata"]["internal-color-map"])
            if types:  # a picture of several types goes to the one that covers most
                kind = max(types, key=lambda each: int(types[each].sum()))
                where = np.any(list(types.values()), axis=0)
        place = out / "test" / kind / name
        if where is not None:
            mask_place = out / "ground_truth" / kind / f"{place.stem}_mask.png"
            mask_place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(where.astype(np.uint8) * 255).save(mask_place)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(picture, place)
    return place


def main() -> None:
    arguments = [each for each in sys.argv[1:] if each != "--test"]
    if len(arguments) != 3:
        raise SystemExit(__doc__)
    manifest, fetched, out = map(Path, arguments)
    use = "test" if "--test" in sys.argv else "train"
    lines = [line for line in manifest.read_text().splitlines() if line.strip()]
    for line in lines:
        sort_in(json.loads(line), fetched, out, use)
    print(f"{len(lines)} pictures in {out}")


if __name__ == "__main__":
    main()
