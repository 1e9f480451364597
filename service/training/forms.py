"""The numerical forms of a trained network: export, quantise, keep what is as good, calibrate each, golden pictures."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle.conformal import limits, part_scores, without_highest
from service.bundle.load import window_ms
from service.bundle.manifest import FORM_FILES, Form, FormName, Golden, Parity
from service.engine.machine import machine_name
from service.engine.session import OPENVINO_FORMS, Session, has_openvino, open_session
from service.errors import BundleRefused
from service.image.prepare import plan_tiles, thumbnail, working_size
from service.training.data import NormalImage
from service.training.export import parity_with, require_parity, store_as_half, to_onnx
from service.training.features import FeatureBank
from service.training.flaws import paint_flaw
from service.training.network import Detector
from service.training.product import Picture, Product
from service.training.quantize import halve, quantize
from service.training.select import Example, Selection, run_torch
from service.types import TilePlan, WindowMaps

Say = Callable[[str], None]
_FORM_LOSS = 0.002  # how much AUROC of pictures, and of pixels, a faster form may lose
_QUANTISE_WINDOWS = 48
_PARITY_WINDOWS = 9
_GOLDEN_WINDOWS = 8  # run by every start of the service: 2.8 s of float32 on two cores


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out normal images and their pictures, in the same order: what thresholds are set with."""

    images: Sequence[NormalImage]
    pictures: Sequence[Picture]


@dataclass(frozen=True, slots=True)
class Exact:
    """What forms are compared with: a few windows uint8 [n,256,256,3] and torch's maps of them; one picture among them."""

    windows: NDArray[np.uint8]
    maps: WindowMaps
    picture: Example

    @classmethod
    def of(cls, detector: Detector, chooser: Selection) -> Exact:
        """Of the first of the chooser's pictures."""
        windows = np.concatenate([example.windows for example in chooser.examples])[:_PARITY_WINDOWS]
        return cls(windows, run_torch(detector, windows), chooser.examples[0])


@dataclass(frozen=True, slots=True)
class Calibrated:
    """A form with its thresholds, and the score of each held-out part that set them, ascending."""

    form: Form
    by_part: Mapping[str, float]

    def note(self) -> str | None:
        """For a person: which single part the reject threshold stands on, if it stands on one."""
        scores = tuple(self.by_part.values())
        other = without_highest(scores, self.form.reject_rule.false_reject_rate)
        if other is None:
            return None
        part, score = list(self.by_part.items())[-1]
        return (
            f"the reject threshold of {self.form.reject_threshold:.3f} stands on one good part, {part}, that scores {score:.3f} "
            f"where the next has {scores[-2]:.3f}; without it the threshold would be {other:.3f}. Look at that part: if it is "
            "flawed or badly photographed, remove it and train again; if it is good, faint flaws pass until more good parts "
            "like it are there to learn from"
        )


def export_forms(
    detector: Detector, bank: FeatureBank, judge: Selection, say: Say, *, half: bool
) -> dict[FormName, bytes]:
    """The float32 form, and those of the faster ones that tell painted flaws as well: int8, fp16 (when `half` is wanted),
    and where OpenVINO is installed the int8 and float32 networks as it computes them."""
    plain = to_onnx(detector)
    networks: dict[FormName, bytes] = {"float32": store_as_half(plain)}
    rng = np.random.default_rng(0)
    windows = [window.numpy() for window in bank.windows(rng, _QUANTISE_WINDOWS).images.cpu()]
    # without an autoencoder only a picture of one tile is ever run as a whole, which is that tile
    windows += [
        canvas.whole
        for canvas in bank.canvases[: _QUANTISE_WINDOWS // 3]
        if detector.autoencoder is not None or canvas.canvas.shape == canvas.whole.shape
    ]
    faster: dict[FormName, bytes] = {"int8": quantize(plain, windows)}
    if half:
        faster["fp16"] = halve(plain)
    if has_openvino():
        faster |= {"int8-openvino": faster["int8"], "bf16": networks["float32"]}
    before = judge.separation_of(open_form(networks["float32"], "float32").run)
    for name, network in faster.items():
        try:
            after = judge.separation_of(open_form(network, name).run)
        except BundleRefused as error:  # bfloat16 on a processor without it
            say(f"the faster form {name} is not made: {error.detail}")
            continue
        if after.image >= before.image - _FORM_LOSS and after.pixel >= before.pixel - _FORM_LOSS:
            networks[name] = network
        verb = "is kept" if name in networks else "is left out"
        say(
            f"the faster form {name} {verb}: painted flaws are told from good parts with image AUROC {after.image:.4f} and pixel "
            f"AUROC {after.pixel:.4f}, by float32 with {before.image:.4f} and {before.pixel:.4f}"
        )
    return networks


def open_form(network: bytes, name: FormName) -> Session:
    """The network in the engine that serves this form: float forms by CUDA where that is, all others on the CPU.

    Raises BundleRefused where it cannot.
    """
    if name in OPENVINO_FORMS:
        return open_session(network, form=name, provider="openvino")
    return open_session(network, form=name, provider="cpu" if name == "int8" else "auto")


def calibrate_form(
    name: FormName,
    network: bytes,
    session: Session,
    product: Product,
    exact: Exact,
    held_out: HeldOut,
    false_reject_rate: float,
) -> Calibrated:
    """A form's parity with torch, its speed on the CPU, and its thresholds through the served path. `session`: the `network`
    as open_form gives it.

    Raises BundleRefused when the float32 form does not give torch's scores.
    """
    batches = (1, 3, 7) if session.provider == "cuda" else (1, 3)
    parity: Parity = parity_with(exact.maps, session, exact.windows, batches)
    if name == "float32":
        require_parity(parity)
    scores = [product.score(session, picture) for picture in held_out.pictures]
    by_part = part_scores([image.part for image in held_out.images], scores)
    shown = exact.picture
    return calibrated_form(name, network, session, parity, shown.windows, shown.plan, by_part, false_reject_rate)


def calibrated_form(
    name: FormName,
    network: bytes,
    session: Session,
    parity: Parity,
    windows: NDArray[np.uint8],
    plan: TilePlan,
    by_part: Mapping[str, float],
    false_reject_rate: float,
) -> Calibrated:
    """The form whose thresholds are set by the scores `by_part`, ascending; its speed on the CPU is that of a picture's
    `windows` uint8 [n,256,256,3] by their `plan`."""
    scores = tuple(by_part.values())
    found = limits(scores, false_reject_rate)
    # a CPU's latency budget is made of its time; the GPU's is the same for every model
    on_cpu = open_session(network, form=name, provider="cpu") if session.provider == "cuda" else session
    form = Form(
        file=FORM_FILES[name],
        review_threshold=found.review,
        reject_threshold=found.reject,
        review_rule=found.review_rule,
        reject_rule=found.reject_rule,
        calibration_scores=scores,
        parity=parity,
        network_ms_per_window=round(window_ms(on_cpu, windows, plan), 2),
        machine=machine_name(),
    )
    return Calibrated(form, by_part)


def golden_pictures(
    product: Product, sessions: dict[FormName, Session], pictures: Sequence[Picture]
) -> tuple[tuple[Golden, ...], dict[str, bytes]]:
    """A held-out normal with a painted flaw and, where that is quick enough at every start, two untouched ones, at
    working resolution, with each form's score."""
    flawed = paint_flaw(pictures[0], np.random.default_rng(0), product.roi)[0]
    plan = plan_tiles(flawed.shape[1], flawed.shape[0], product.recipe, global_map=product.global_map)
    golden, files = [], {}
    for index, picture in enumerate((flawed, pictures[-1], pictures[0])[: max(1, _GOLDEN_WINDOWS // plan.windows)]):
        shown = shrunk(picture, max(working_size(picture.shape[1], picture.shape[0], product.recipe)))
        file = f"golden/{index}.png"
        files[file] = png(shown)
        pixels = np.asarray(shown)
        scores: dict[FormName, float] = {name: product.score(session, pixels) for name, session in sessions.items()}
        golden.append(Golden(file=file, scores=scores))
    return tuple(golden), files


def shrunk(picture: Picture, long_side: int) -> Image.Image:
    """The picture with a longer side of at most `long_side` px."""
    image = Image.fromarray(picture)
    image.thumbnail((long_side, long_side), Image.Resampling.BILINEAR)
    return image


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def jpeg(image: Image.Image) -> bytes:
    """The image as a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def varied(pictures: Sequence[Picture], first: int, count: int) -> list[Picture]:
    """`count` pictures as unlike each other and the `first` as they come: always the one farthest from those taken."""
    seen = np.stack([thumbnail(picture) for picture in pictures])
    taken = [first]
    distance = np.abs(seen - seen[first]).mean(axis=(1, 2, 3))
    while len(taken) <= min(count, len(pictures) - 1):
        taken.append(int(distance.argmax()))
        distance = np.minimum(distance, np.abs(seen - seen[taken[-1]]).mean(axis=(1, 2, 3)))
    return [pictures[index] for index in taken[1:]]
