"""report.html: what a model learned, for a person to look at. It stands alone: pictures and plots are inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle.manifest import FormName
from service.decision.heatmap import overlay_png
from service.engine.session import Session
from service.training.data import Splits
from service.training.flaws import paint_flaw
from service.training.forms import Calibrated
from service.training.product import Picture, Product
from service.training.train import History
from service.types import AnomalyMap, Lighting, Thresholds

_METHODS = {"conformal": "counted on", "fitted_tail": "extrapolated (fitted tail) from", "reviews": "by reviews of"}
_BY_PLACE = {True: "what is normal measured place by place", False: "one measure of what is normal for all places"}
_LIGHT: dict[Lighting, str] = {"as_is": "light as it is", "even": "light evened out"}
_WIDTH, _HEIGHT = 640, 220
_SUSPECTS = 12  # pictures that look least normal
_NAMED = 5  # of the parts that set the thresholds
_USES = {"train": "to learn from", "validation": "to choose the best step by", "calibration": "to set thresholds by"}
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "table{border-collapse:collapse}td,th{padding:.2rem .8rem;text-align:left;border-bottom:1px solid #8886}"
    "img{max-width:100%}figure{display:inline-block;margin:.4rem;width:20rem;vertical-align:top}svg{max-width:100%}"
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture uint8 [H,W,3] with its map, and the path of its file below the data folder where it is one's own."""

    rgb: NDArray[np.uint8]
    anomaly_map: AnomalyMap
    file: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the page shows. `shown_form`: the one whose thresholds, scores and maps those are."""

    name: str
    data: str
    counts: Mapping[str, int]
    notes: Sequence[str]
    forms: Mapping[FormName, Calibrated]
    shown_form: FormName
    history: History
    separation: float
    ranked: int  # pictures among which the suspects were looked for
    suspects: Sequence[Shown]
    samples: Sequence[Shown]
    seconds: float
    recipe: str
    teacher: str
    lighting: Lighting
    by_place: bool  # whether parts lie alike


def write_report(report: Report) -> str:
    """The page as HTML."""
    calibrated = report.forms[report.shown_form]
    form = calibrated.form
    limits = Thresholds(form.review_threshold, form.reject_threshold)
    counts = ", ".join(f"{count} {_USES[use]}" for use, count in report.counts.items())
    parts = [
        f"<h1>{escape(report.name)}</h1>",
        f"<p>Pictures: {escape(report.data)}; {counts}. Teacher {escape(report.teacher)}, {_LIGHT[report.lighting]}, "
        f"{_BY_PLACE[report.by_place]}, recipe {escape(report.recipe)}, {report.seconds / 60:.1f} minutes.</p>",
        "".join(f"<p>Note: {escape(note)}</p>" for note in report.notes),
        "<h2>Does it tell flaws from good parts?</h2>",
        f"<p>Separation of painted flaws: <b>{report.separation:.3f}</b>; 1 is perfect, 0.5 is guessing. Flaws were painted on "
        "good parts that were held back, since nobody has to bring flawed ones: it is the mean of how well whole pictures and how "
        "well single pixels are ranked (AUROC). Below 0.9: more steps, a larger working size, or better light.</p>",
        "<h2>Thresholds</h2>",
        "<p>A part whose score is above <i>review</i> is for a person to look at, above <i>reject</i> it is not OK. Each form of "
        "the network has its own; the service takes the fastest one that the machine can run.</p>",
        _thresholds(report.forms),
        f"<h2>Scores of good parts that set the thresholds, {report.shown_form}</h2>",
        "<p>One far to the right of all others is a flawed or badly photographed part among the good ones.</p>",
        histogram(form.calibration_scores, limits),
        f"<p>The highest: {_highest(calibrated.by_part)}.</p>",
        "<h2>Training</h2>",
        _curve(report.history),
        "<h2>Held-back good parts, each as it is and with a painted flaw</h2>",
        "<p>Untouched parts should be cold, painted flaws hot.</p>",
        "".join(_figure(shown, limits) for shown in report.samples),
        "<h2>Training pictures that look least normal</h2>",
        f"<p>Of all {report.ranked} that it learned from or chose the best step by. A training folder is never clean: look at "
        "these, remove what is flawed, and train again.</p>",
        "".join(_figure(shown, limits) for shown in report.suspects),
    ]
    head = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(report.name)}</title>"
    )
    return f"{head}<style>{_STYLE}</style>{''.join(parts)}</html>\n"


def _highest(by_part: Mapping[str, float]) -> str:
    last = list(by_part.items())[: -_NAMED - 1 : -1]
    return ", ".join(f"{escape(part)} {score:.4f}" for part, score in last)


def _thresholds(forms: Mapping[FormName, Calibrated]) -> str:
    rows = "".join(
        f"<tr><td>{name}</td><td>{form.review_threshold:.4f}</td><td>{form.reject_threshold:.4f}</td>"
        f"<td>{form.reject_rule.false_reject_rate:.2%}, {_METHODS.get(form.reject_rule.method, form.reject_rule.method)} "
        f"{form.reject_rule.parts} parts</td><td>{form.network_ms_per_window:.1f} ms ({escape(form.machine)})</td></tr>"
        for name, form in ((name, each.form) for name, each in forms.items())
    )
    head = "<tr><th>form</th><th>review</th><th>reject</th><th>good parts rejected</th><th>time a window</th></tr>"
    return f"<table>{head}{rows}</table>"


def histogram(scores: Sequence[float], limits: Thresholds) -> str:
    """The scores as an SVG histogram with both thresholds."""
    low = min(scores)
    high = max(*scores, limits.reject) * 1.05
    counts, edges = np.histogram(scores, bins=24, range=(low, max(high, low + 1e-9)))
    bar, top = _WIDTH / len(counts), max(counts)
    bars = "".join(
        f'<rect x="{index * bar:.1f}" y="{_HEIGHT - 20 - count / top * 180:.1f}" width="{bar - 1:.1f}" '
        f'height="{count / top * 180:.1f}" fill="#4a7fb5"/>'
        for index, count in enumerate(counts)
        if count
    )
    lines = "".join(
        _line((value - edges[0]) / (edges[-1] - edges[0]) * _WIDTH, f"{name} {value:.3f}", colour)
        for name, value, colour in (("review", limits.review, "#d08a00"), ("reject", limits.reject, "#c0203a"))
    )
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="calibration scores">{bars}{lines}</svg>'


def _line(x: float, text: str, colour: str) -> str:
    anchor = "end" if x > _WIDTH * 0.7 else "start"
    return (
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{_HEIGHT - 20}" stroke="{colour}" stroke-width="2"/>'
        f'<text x="{x:.1f}" y="{_HEIGHT - 4}" text-anchor="{anchor}" font-size="13" fill="{colour}">{text}</text>'
    )


def _curve(history: History) -> str:
    """Loss by step (logarithmic), and the selection score at each evaluation."""
    steps = np.array([step for step, _ in history.losses])
    losses = np.log10(np.maximum([loss for _, loss in history.losses], 1e-9))
    span = max(float(np.ptp(losses)), 1e-9)
    end = max(int(steps[-1]), 1)
    points = " ".join(
        f"{step / end * _WIDTH:.1f},{_HEIGHT - 20 - (loss - losses.min()) / span * 180:.1f}"
        for step, loss in zip(steps, losses, strict=True)
    )
    dots = "".join(
        f'<circle cx="{step / end * _WIDTH:.1f}" cy="{_HEIGHT - 20 - score * 180:.1f}" r="4" fill="#2f8f4e">'
        f"<title>step {step}: {score:.4f}</title></circle>"
        for step, score in history.scores
    )
    first, last = history.losses[0][1], history.losses[-1][1]
    return (
        f'<svg viewBox="-6 0 {_WIDTH + 12} {_HEIGHT}" role="img" aria-label="training curve">'
        f'<polyline points="{points}" fill="none" stroke="#4a7fb5"/>{dots}</svg>'
        f"<p>Line: what is still to be learned (loss), {first:.3g} to {last:.3g} over {end} steps; it falls, then levels off. "
        "Dots: separation of painted flaws, 1 at the top. Still rising at the end: more steps.</p>"
    )


def _figure(shown: Shown, limits: Thresholds) -> str:
    data = base64.b64encode(thumbnail(shown.rgb, shown.anomaly_map, limits)).decode()
    score = shown.anomaly_map.score
    word = "not ok" if score > limits.reject else "review" if score > limits.review else "ok"
    file = "" if shown.file is None else f"{escape(shown.file)}: "
    return (
        f'<figure><img alt="{word}" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{file}{word}, {score:.3f}</figcaption></figure>"
    )


def thumbnail(rgb: NDArray[np.uint8], mapped: AnomalyMap, limits: Thresholds) -> bytes:
    """A small JPEG of a picture uint8 [H,W,3] with its map's heat."""
    image = Image.open(io.BytesIO(overlay_png(rgb, mapped, limits)))
    image.thumbnail((400, 400))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def least_normal(
    data: Path, splits: Splits, product: Product, session: Session, pictures: Sequence[Picture], scores: Sequence[float]
) -> list[Shown]:
    """Those with the highest of the `scores`, highest first, of all `pictures` to learn from and to choose the best step by,
    with the maps by which they were scored."""
    images = (*splits.train, *splits.validation)
    order = [int(index) for index in np.argsort(scores)[::-1][:_SUSPECTS]]
    return [
        Shown(
            pictures[index],
            product.anomaly_map(session, pictures[index]),
            images[index].path.relative_to(data).as_posix(),
        )
        for index in order
    ]


def samples(seed: int, product: Product, session: Session, held_out: Sequence[Picture]) -> list[Shown]:
    """Held-out normals, each as it is and with a painted flaw."""
    shown = []
    for index, rgb in enumerate(held_out[:3]):
        flawed = paint_flaw(rgb, np.random.default_rng((seed, index, 0)), product.roi)[0]
        shown += [Shown(each, product.anomaly_map(session, each)) for each in (rgb, flawed)]
    return shown
