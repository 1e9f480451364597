"""How good is a bundle on a labelled test set? Through the served path, at the bundle's own gate and thresholds."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle.store import Bundle
from service.decision.heatmap import overlay_png
from service.decision.scale import full_size
from service.errors import BadRequest, FlawscribeError, UnreadableImage
from service.image.decode import decode
from service.image.folder import is_picture
from service.image.prepare import prepare
from service.inspector import decide
from service.training.data import MAX_PIXELS
from service.training.metrics import au_pro, auroc, interval
from service.types import AnomalyMap, Verdict

_LONG_SIDE = 512  # px: pixel metrics are read off maps and masks at this size, so that large sets fit in memory
_WORST = 6
_NAMED = 10  # of the pictures that cannot be judged


@dataclass(frozen=True, slots=True)
class TestImage:
    """A labelled picture: `defect` is "good" or the kind of flaw; `mask` is the file of its mask, if there is one."""

    path: Path
    defect: str
    mask: Path | None


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate with its 95 % Clopper-Pearson interval."""

    hits: int
    trials: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Undecidable:
    """How many pictures the service cannot judge, by what they show."""

    good: int
    flawed: int


@dataclass(frozen=True, slots=True)
class Scored:
    """A judged test picture; `cells` is its map at reduced size, `truth` its mask, None where it has none. `reasons`: why the
    service answers `undecidable`, empty where it does not."""

    image: TestImage
    score: float
    cells: NDArray[np.float32]
    truth: NDArray[np.bool_] | None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures. AUROC of images and pixels, AU-PRO up to false positive rates 0.3 and 0.05: of the network, over all
    pictures. Of the service, over those that it can judge: overkill, good parts rejected; escape, flawed parts passed as ok
    or review; the share for review. The others, which nobody passes or rejects, are counted as `undecidable`."""

    model: str
    version: int
    form: str
    images: int
    image_auroc: float
    pixel_auroc: float | None
    au_pro: float | None
    au_pro_005: float | None
    overkill: Rate
    escape: Rate
    undecidable: Undecidable
    review_share: float
    by_defect: dict[str, dict[str, Any]]


def find_test_images(dataset: Path) -> list[TestImage]:
    """`test/<defect>/*` with `ground_truth/<defect>/<name>_mask.png`. Raises BadRequest for another layout."""
    root = dataset / "test"
    if not root.is_dir():
        raise BadRequest(f"{dataset} has no folder `test`; expected is MVTec AD's layout: test/good, test/<defect>")
    found = [
        TestImage(path, path.parent.name, _mask_of(dataset, path))
        for path in sorted(root.glob("*/*"))
        if is_picture(path.relative_to(root))
    ]
    kinds = {image.defect for image in found}
    if "good" not in kinds or len(kinds) < 2:
        raise BadRequest(f"{root} needs pictures in `good` and in at least one folder of flaws; it has {sorted(kinds)}")
    return found


def _mask_of(dataset: Path, path: Path) -> Path | None:
    mask = dataset / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
    return mask if mask.is_file() else None


def score_all(
    bundle: Bundle, images: Sequence[TestImage], progress: Callable[[int, int], None] | None = None
) -> list[Scored]:
    """Every picture through the bundle. Raises what serving raises, and names the file of the picture or mask."""
    scored = []
    for index, image in enumerate(images):
        try:
            mapped, verdict = _judged(bundle, image.path.read_bytes())
        except FlawscribeError as error:
            raise type(error)(f"{image.path}: {error.detail}") from error
        width, height = mapped.plan.width, mapped.plan.height
        shrink = min(1.0, _LONG_SIDE / max(width, height))
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        inside = np.where(np.isfinite(mapped.cells), mapped.cells, mapped.structural.min())
        cells = Image.fromarray(full_size(inside, mapped.plan)).resize(size, Image.Resampling.BILINEAR)
        truth = None
        if image.defect == "good":
            truth = np.zeros((size[1], size[0]), bool)
        elif image.mask is not None:
            truth = _truth(image.mask, size)
        scored.append(Scored(image, mapped.score, np.asarray(cells, np.float32), truth, verdict.reasons))
        if progress is not None:
            progress(index + 1, len(images))
    return scored


def _judged(bundle: Bundle, data: bytes) -> tuple[AnomalyMap, Verdict]:
    """An encoded picture's map and verdict, decoded as serving does."""
    image, plan = bundle.decoded(data, MAX_PIXELS)
    reasons = bundle.manifest.quality_gate.reasons(image, plan.width // image.width)
    return decide(bundle.session.run(prepare(image, plan), plan.wanted), bundle, plan, None, reasons)


def _truth(mask: Path, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask in `size`, True where half of a place is flawed, or where most is when none is half: a flaw never vanishes. White
    and grey are told at half the brightness; where all is darker, as in masks of labels, everything but black is flawed.

    Raises UnreadableImage naming its file.
    """
    try:
        with Image.open(mask) as picture:
            grey = np.asarray(picture.convert("L"))
        flawed = grey > (127 if grey.max() > 127 else 0)
        share = np.asarray(Image.fromarray(np.float32(flawed)).resize(size, Image.Resampling.BOX))
        return share >= min(0.5, share.max()) if flawed.any() else share > 0
    except Exception as error:  # Pillow's readers raise anything on broken files
        raise UnreadableImage(f"{mask}: no mask can be read from it: {error}") from error


def evaluate(bundle: Bundle, scored: Sequence[Scored]) -> Evaluation:
    """The figures of scored test pictures, of which some are good and some flawed."""
    flawed = np.array([item.image.defect != "good" for item in scored])
    decided = np.array([not item.reasons for item in scored])
    scores = np.array([item.score for item in scored])
    limits = bundle.thresholds
    rejected, reviewed = scores > limits.reject, (scores > limits.review) & (scores <= limits.reject)
    masked = [item for item in scored if item.truth is not None]
    pixel = _pixel_auroc(scored)
    pro = pro_005 = None
    if pixel is not None:
        maps = [item.cells for item in masked]
        truths = [item.truth for item in masked if item.truth is not None]
        pro, pro_005 = au_pro(maps, truths, 0.3), au_pro(maps, truths, 0.05)
    return Evaluation(
        model=bundle.manifest.name,
        version=bundle.manifest.version,
        form=bundle.form_name,
        images=len(scored),
        image_auroc=auroc(scores, flawed),
        pixel_auroc=pixel,
        au_pro=pro,
        au_pro_005=pro_005,
        overkill=_rate(rejected[decided & ~flawed]),
        escape=_rate(~rejected[decided & flawed]),
        undecidable=Undecidable(int((~decided & ~flawed).sum()), int((~decided & flawed).sum())),
        review_share=_rate(reviewed[decided]).rate,
        by_defect={
            defect: _of_defect(defect, scored, scores, flawed, rejected, decided)
            for defect in sorted({item.image.defect for item in scored} - {"good"})
        },
    )


def _of_defect(
    defect: str,
    scored: Sequence[Scored],
    scores: NDArray[np.float64],
    flawed: NDArray[np.bool_],
    rejected: NDArray[np.bool_],
    decided: NDArray[np.bool_],
) -> dict[str, Any]:
    mine = np.array([item.image.defect == defect for item in scored])
    chosen = mine | ~flawed
    return {
        "images": int(mine.sum()),
        "image_auroc": auroc(scores[chosen], flawed[chosen]),
        "pixel_auroc": _pixel_auroc([item for item, is_chosen in zip(scored, chosen, strict=True) if is_chosen]),
        "escape": asdict(_rate(~rejected[mine & decided])),
        "undecidable": int((mine & ~decided).sum()),
    }


def _pixel_auroc(scored: Sequence[Scored]) -> float | None:
    """Over all pixels of pictures that are good or whose flaw somebody drew; None where nobody drew any."""
    masked = [(item.cells.ravel(), item.truth.ravel()) for item in scored if item.truth is not None]
    if not any(truth.any() for _, truth in masked):
        return None
    values, truths = (np.concatenate(parts) for parts in zip(*masked, strict=True))
    return auroc(values, truths)


def _rate(hits: NDArray[np.bool_]) -> Rate:
    low, high = interval(int(hits.sum()), len(hits))
    return Rate(int(hits.sum()), len(hits), float(hits.mean()) if len(hits) else 0.0, low, high)


def worst(scored: Sequence[Scored]) -> list[Scored]:
    """Good parts with the highest scores, then flawed ones with the lowest, of those that can be judged."""
    decided = [item for item in scored if not item.reasons]
    good = sorted((item for item in decided if item.image.defect == "good"), key=lambda item: -item.score)
    bad = sorted((item for item in decided if item.image.defect != "good"), key=lambda item: item.score)
    return [*good[:_WORST], *bad[:_WORST]]


def to_text(scored: Sequence[Scored]) -> list[str]:
    """Lines on the pictures that cannot be judged, the first ten with their reasons; none where all can."""
    refused = [item for item in scored if item.reasons]
    if not refused:
        return []
    good = sum(item.image.defect == "good" for item in refused)
    head = (
        f"{len(refused)} of {len(scored)} pictures are undecidable, {good} good and {len(refused) - good} flawed ones: they "
        "count neither as overkill nor as escapes"
    )
    return [
        head,
        *(f"{item.image.defect}/{item.image.path.name}: {'; '.join(item.reasons)}" for item in refused[:_NAMED]),
    ]


def to_json(evaluation: Evaluation) -> str:
    """The figures as JSON."""
    return json.dumps(asdict(evaluation), indent=1) + "\n"


def to_html(evaluation: Evaluation, bundle: Bundle, scored: Sequence[Scored]) -> str:
    """The figures and the worst pictures as a page that stands alone."""
    rows = "".join(
        f"<tr><td>{escape(defect)}</td><td>{row['images']}</td><td>{row['image_auroc']:.4f}</td>"
        f"<td>{'no masks' if row['pixel_auroc'] is None else format(row['pixel_auroc'], '.4f')}</td>"
        f"<td>{row['escape']['rate']:.1%} ({row['escape']['low']:.1%} to {row['escape']['high']:.1%})</td>"
        f"<td>{row['undecidable']}</td></tr>"
        for defect, row in evaluation.by_defect.items()
    )
    figures = "".join(_figure(item, bundle) for item in worst(scored))
    undecidable = "".join(f"<p>{escape(line)}</p>" for line in to_text(scored))
    shown = {
        "image AUROC": evaluation.image_auroc,
        "pixel AUROC": evaluation.pixel_auroc,
        "AU-PRO (0.3)": evaluation.au_pro,
        "AU-PRO (0.05)": evaluation.au_pro_005,
    }
    listed = "".join(f"<li>{name}: {value:.4f}</li>" for name, value in shown.items() if value is not None)
    overkill, missed = evaluation.overkill, evaluation.escape
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(evaluation.model)}</title>"
        "<style>body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;color-scheme:light dark}"
        "td,th{padding:.2rem .8rem;text-align:left}figure{display:inline-block;width:19rem;margin:.3rem}"
        "img{max-width:100%}</style>"
        f"<h1>{escape(evaluation.model)} {evaluation.version}, {evaluation.form}, {evaluation.images} pictures</h1>"
        f"<ul>{listed}<li>overkill {overkill.rate:.1%} ({overkill.low:.1%} to {overkill.high:.1%})</li>"
        f"<li>escape {missed.rate:.1%} ({missed.low:.1%} to {missed.high:.1%})</li></ul>"
        f"<table><tr><th>defect</th><th>pictures</th><th>image AUROC</th><th>pixel AUROC</th><th>escape</th>"
        f"<th>undecidable</th></tr>"
        f"{rows}</table>{undecidable}"
        f"<h2>Worst of what can be judged: good parts with the highest scores, flawed ones with the lowest</h2>{figures}</html>\n"
    )


def _figure(item: Scored, bundle: Bundle) -> str:
    rgb = decode(item.image.path.read_bytes(), MAX_PIXELS)
    drawn = Image.open(io.BytesIO(overlay_png(rgb, bundle.anomaly_map(rgb), bundle.thresholds)))
    drawn.thumbnail((400, 400))
    buffer = io.BytesIO()
    drawn.save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    text = f"{item.image.defect}/{item.image.path.name}: {item.score:.3f}"
    return f'<figure><img alt="" src="data:image/jpeg;base64,{data}"><figcaption>{escape(text)}</figcaption></figure>'
