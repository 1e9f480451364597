"""Normal images -> bundle, on one page.

folder -> splits -> working resolution -> teacher's features -> training -> ONNX -> forms -> calibration -> report -> bundle
"""

from __future__ import annotations

import io
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from service.bundle.manifest import (
    FORM_FILES,
    Form,
    FormName,
    Golden,
    Manifest,
    MapQuantiles,
    Network,
    Parity,
    Quantiles,
)
from service.bundle.manifest import Teacher as TeacherRecord
from service.bundle.verify import digest, manifest_text, verify
from service.decision.scale import picture_map
from service.engine.session import Session, available_cores, open_session
from service.errors import BadRequest
from service.image.decode import decode
from service.image.prepare import PrepareRecipe, plan_tiles, prepare
from service.image.quality import learn_gate
from service.training.calibrate import part_scores, threshold
from service.training.data import MAX_PIXELS, NormalImage, Splits, choose_recipe, load_pictures, split_folder
from service.training.export import measure_parity, require_parity, round_to_half, store_as_half, to_onnx
from service.training.features import FeatureBank
from service.training.flaws import paint_flaw
from service.training.network import Detector
from service.training.penalty import PenaltyImages
from service.training.quantize import quantize
from service.training.recipes import recipe_named
from service.training.report import Report, write_report
from service.training.select import Selection
from service.training.teacher import load_teacher
from service.training.train import History, Progress, Trainer

Picture = NDArray[np.uint8]
Say = Callable[[str], None]
Obtain = Callable[[Trainer, Path], Detector]
_GOLDEN_TOLERANCE = 0.02  # relative; another processor may round int8 differently
_REVIEW_TIMES = 5  # the review band opens at this multiple of the false reject rate
_FORM_LOSS = 0.002  # how much separation a faster form may lose
_JUDGE_WINDOWS = 200  # of painted and untouched pictures by which a form is kept or dropped
_QUANTISE_WINDOWS = 48
_SETTINGS = "settings.json"
_MOST_RANKED = 60  # training pictures looked at for the report


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What `flawscribe train` was asked for."""

    data: Path
    name: str
    models_dir: Path
    runs_dir: Path
    teacher: str = "pdn-small"
    teachers_dir: Path = Path("models/teachers")
    recipe: str = "default"
    steps: int | None = None
    global_map: bool = True
    group_by: str | None = None
    penalty: Path | None = None
    working_size: int | None = None
    roi: Path | None = None
    min_flaw_px: float | None = None
    mm_per_pixel: float | None = None
    false_reject_rate: float = 0.01
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Product:
    """What is the same for every form of the model."""

    recipe: PrepareRecipe
    global_map: bool
    min_flaw_px: float
    roi: NDArray[np.bool_] | None

    def score(self, session: Session, rgb: Picture) -> float:
        """A picture's anomaly score through the served path."""
        plan = plan_tiles(rgb.shape[1], rgb.shape[0], self.recipe, global_map=self.global_map)
        return picture_map(session.run(prepare(rgb, plan)), plan, self.min_flaw_px, self.roi).score


def build(settings: BuildSettings, say: Say, progress: Progress | None = None, *, obtain: Obtain | None = None) -> Path:
    """Train, export, calibrate and write a bundle; returns its folder. Everything wrong with the input is said first.

    `obtain` gets the detector from the trainer and its checkpoint file; by default by training to the end.

    Raises BadRequest for unusable input, BundleRefused when ONNX Runtime does not reproduce the network.
    """
    started = time.monotonic()
    splits = split_folder(settings.data, settings.group_by, settings.seed)
    teacher = load_teacher(settings.teacher, settings.teachers_dir)
    product = _product(settings, splits)
    _announce(splits, product, say)
    pictures = load_pictures(splits.train)
    held_out = load_pictures(splits.validation)
    calibration = load_pictures(splits.calibration)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = recipe_named(settings.recipe, len(pictures))
    if settings.steps is not None:
        recipe = replace(recipe, steps=settings.steps)
    say(f"teacher {teacher.name}: computing features of {len(pictures)} pictures on {device.type}")
    bank = FeatureBank(pictures, product.recipe, teacher.network.to(device))
    chooser = Selection(
        held_out,
        product.recipe,
        global_map=product.global_map,
        min_flaw_px=product.min_flaw_px,
        seed=settings.seed,
    )
    trainer = Trainer(
        teacher.network,
        bank,
        PenaltyImages(settings.penalty),
        chooser,
        recipe,
        global_map=product.global_map,
        seed=settings.seed,
    )
    run_dir = settings.runs_dir / settings.name
    _remember(settings, run_dir)
    checkpoint = run_dir / "checkpoint.pt"
    detector = trainer.run(checkpoint, progress) if obtain is None else obtain(trainer, checkpoint)
    say("exporting, quantising and calibrating")
    detector = detector.cpu()
    round_to_half(detector)
    separation = chooser.score(detector)  # sets the quantiles anew, for the rounded weights
    judge = Selection(
        held_out,
        product.recipe,
        global_map=product.global_map,
        min_flaw_px=product.min_flaw_px,
        seed=settings.seed + 1,
        flaws_each=5,
        window_limit=_JUDGE_WINDOWS,
    )
    networks = _networks(detector, bank, judge, say)
    forms = {
        name: _form(settings, product, detector, chooser, splits.calibration, calibration, name, data)
        for name, data in networks.items()
    }
    sessions = {name: open_session(data, form=name, provider="cpu") for name, data in networks.items()}
    golden, files = _golden(product, sessions, calibration)
    files |= {FORM_FILES[name]: data for name, data in networks.items()}
    fastest = sessions["int8" if "int8" in sessions else "float32"]
    ranked = [product.score(fastest, picture) for picture in pictures[:_MOST_RANKED]]
    files["reference.png"] = _png(_shrunk(pictures[int(np.argsort(ranked)[len(ranked) // 2])], 512))
    if settings.roi is not None:
        files["roi.png"] = settings.roi.read_bytes()
    seconds = time.monotonic() - started
    report = _report(settings, splits, product, forms, trainer.history, ranked, separation, fastest, held_out, seconds)
    files["report.html"] = write_report(report).encode()
    manifest = Manifest(
        name=settings.name,
        version=_next_version(settings.models_dir / settings.name),
        created_at=datetime.now(UTC),
        network=Network(size=teacher.size, global_map=product.global_map),
        prepare=product.recipe,
        quantiles=_quantiles(detector),
        min_flaw_px=product.min_flaw_px,
        mm_per_pixel=settings.mm_per_pixel,
        quality_gate=learn_gate([*pictures, *held_out, *calibration]),
        forms=forms,
        golden=golden,
        golden_tolerance=_GOLDEN_TOLERANCE,
        teacher=TeacherRecord(name=teacher.name, sha256=teacher.sha256),
        roi=settings.roi is not None,
        metrics={"painted_flaw_separation": round(separation, 5), "training_seconds": round(seconds, 1)},
        data={
            "fingerprint": splits.fingerprint(),
            "images": {use: len(getattr(splits, use)) for use in ("train", "validation", "calibration")},
            "notes": list(splits.notes),
        },
        training={**asdict(recipe), "steps_done": trainer.history.losses[-1][0], "seed": settings.seed},
        libraries={name: version(name) for name in ("torch", "onnxruntime-gpu", "numpy", "pillow") if _has(name)},
        files=digest(files),
    )
    return _write(settings.models_dir, manifest, files)


def _remember(settings: BuildSettings, run_dir: Path) -> None:
    """Keep what was asked for beside the checkpoint, so that `flawscribe export` can finish a run."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / _SETTINGS).write_bytes(TypeAdapter(BuildSettings).dump_json(settings, indent=1))


def remembered(run_dir: Path) -> BuildSettings:
    """The settings of a run. Raises BadRequest when the folder is no run of `flawscribe train`."""
    try:
        return TypeAdapter(BuildSettings).validate_json((run_dir / _SETTINGS).read_bytes())
    except (OSError, ValidationError) as error:
        raise BadRequest(f"{run_dir} is no run of `flawscribe train`: {_SETTINGS} cannot be read") from error


def _product(settings: BuildSettings, splits: Splits) -> _Product:
    images = (*splits.train, *splits.validation, *splits.calibration)
    recipe = choose_recipe(images, settings.working_size)
    roi = None
    if settings.roi is not None:
        rgb = decode(settings.roi.read_bytes(), MAX_PIXELS)
        roi = rgb.max(axis=2) > 127
        if not roi.any():
            raise BadRequest(f"{settings.roi} is black all over: white marks what is looked at")
    if settings.min_flaw_px is not None:
        smallest = settings.min_flaw_px
    else:  # two cells at working resolution: what the network can tell from noise
        image = images[0]
        plan = plan_tiles(image.width, image.height, recipe, global_map=False)
        smallest = round(8 * image.width / plan.working_width, 2)
    return _Product(recipe, settings.global_map, smallest, roi)


def _announce(splits: Splits, product: _Product, say: Say) -> None:
    say(
        f"{len(splits.train)} pictures to train on, {len(splits.validation)} to choose by, "
        f"{len(splits.calibration)} for thresholds"
    )
    image = splits.train[0]
    plan = plan_tiles(image.width, image.height, product.recipe, global_map=product.global_map)
    say(
        f"working resolution {plan.working_width}x{plan.working_height} of {image.width}x{image.height}: "
        f"{plan.windows} windows a picture, smallest flaw {product.min_flaw_px:g} px"
    )
    for note in splits.notes:
        say(f"note: {note}")


def _networks(detector: Detector, bank: FeatureBank, chooser: Selection, say: Say) -> dict[FormName, bytes]:
    """The float32 form, and the int8 form when it tells painted flaws as well."""
    plain = to_onnx(detector)
    networks: dict[FormName, bytes] = {"float32": store_as_half(plain)}
    rng = np.random.default_rng(0)
    windows = [window.numpy() for window in bank.windows(rng, _QUANTISE_WINDOWS)[0].cpu()]
    windows += [canvas.whole for canvas in bank.canvases[: _QUANTISE_WINDOWS // 3]]
    small = quantize(plain, windows)
    before = chooser.separation_of(open_session(networks["float32"], form="float32", provider="cpu").run)
    after = chooser.separation_of(open_session(small, form="int8", provider="cpu").run)
    if after >= before - _FORM_LOSS:
        networks["int8"] = small
    verb = "kept" if "int8" in networks else "dropped"
    say(f"int8 form {verb}: separation of painted flaws {after:.4f}, float32 {before:.4f}")
    return networks


def _form(
    settings: BuildSettings,
    product: _Product,
    detector: Detector,
    chooser: Selection,
    images: Sequence[NormalImage],
    pictures: Sequence[Picture],
    name: FormName,
    data: bytes,
) -> Form:
    """A form's parity, speed, and thresholds through the served path."""
    session = open_session(data, form=name, provider="cpu")
    windows = np.concatenate([example.windows for example in chooser.examples])[:9]
    parity: Parity = measure_parity(detector, session, windows, (1, 3))
    if name == "float32":
        require_parity(parity)
    scores = part_scores(images, [product.score(session, picture) for picture in pictures])
    reject, reject_rule = threshold(scores, settings.false_reject_rate)
    review, review_rule = threshold(scores, min(0.5, _REVIEW_TIMES * settings.false_reject_rate))
    return Form(
        file=FORM_FILES[name],
        review_threshold=min(review, reject),
        reject_threshold=reject,
        review_rule=review_rule,
        reject_rule=reject_rule,
        calibration_scores=scores,
        parity=parity,
        network_ms_per_window=_milliseconds(session, windows[:1]),
        machine=f"{_processor()}, {available_cores()} cores",
    )


def _milliseconds(session: Session, window: NDArray[np.uint8]) -> float:
    """Median time of one window at batch 1."""
    times = []
    for _ in range(7):
        started = time.perf_counter()
        session.run(window)
        times.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(times), 2)


def _golden(
    product: _Product, sessions: dict[FormName, Session], pictures: Sequence[Picture]
) -> tuple[tuple[Golden, ...], dict[str, bytes]]:
    """Two held-out normals and one with a painted flaw, at working resolution, with each form's score."""
    flawed = paint_flaw(pictures[0], np.random.default_rng(0))[0]
    golden, files = [], {}
    for index, picture in enumerate((pictures[0], pictures[-1], flawed)):
        shown = _shrunk(picture, max(plan_size(product.recipe, picture)))
        file = f"golden/{index}.png"
        files[file] = _png(shown)
        pixels = np.asarray(shown)
        scores: dict[FormName, float] = {name: product.score(session, pixels) for name, session in sessions.items()}
        golden.append(Golden(file=file, scores=scores))
    return tuple(golden), files


def plan_size(recipe: PrepareRecipe, picture: Picture) -> tuple[int, int]:
    """Working width and height of a picture."""
    plan = plan_tiles(picture.shape[1], picture.shape[0], recipe, global_map=False)
    return plan.working_width, plan.working_height


def _shrunk(picture: Picture, long_side: int) -> Image.Image:
    image = Image.fromarray(picture)
    image.thumbnail((long_side, long_side), Image.Resampling.BILINEAR)
    return image


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _quantiles(detector: Detector) -> Quantiles:
    low, high = detector.q_a.tolist(), detector.q_b.tolist()
    logical = MapQuantiles(q_a=low[1], q_b=high[1]) if detector.autoencoder is not None else None
    return Quantiles(structural=MapQuantiles(q_a=low[0], q_b=high[0]), logical=logical)


def _report(
    settings: BuildSettings,
    splits: Splits,
    product: _Product,
    forms: dict[FormName, Form],
    history: History,
    ranked: Sequence[float],
    separation: float,
    session: Session,
    held_out: Sequence[Picture],
    seconds: float,
) -> Report:
    """What the report shows: curves, thresholds, sample heatmaps, and the normals that look least normal."""
    order = np.argsort(ranked)[::-1][:12]
    suspects = [(splits.train[int(index)].path, float(ranked[int(index)])) for index in order]
    samples = []
    for index, rgb in enumerate(held_out[:3]):
        flawed = paint_flaw(rgb, np.random.default_rng((settings.seed, index, 0)))[0]
        for shown in (rgb, flawed):
            plan = plan_tiles(shown.shape[1], shown.shape[0], product.recipe, global_map=product.global_map)
            mapped = picture_map(session.run(prepare(shown, plan)), plan, product.min_flaw_px, product.roi)
            samples.append((shown, mapped))
    return Report(
        name=settings.name,
        data=settings.data.name,
        counts={use: len(getattr(splits, use)) for use in ("train", "validation", "calibration")},
        notes=splits.notes,
        forms=forms,
        shown_form="int8" if "int8" in forms else "float32",
        history=history,
        separation=separation,
        suspects=suspects,
        samples=samples,
        seconds=seconds,
        recipe=settings.recipe,
        teacher=settings.teacher,
    )


def _next_version(folder: Path) -> int:
    taken = [int(path.name) for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []
    return max(taken, default=0) + 1


def _write(models_dir: Path, manifest: Manifest, files: dict[str, bytes]) -> Path:
    """Write a temporary folder, verify it, and rename it whole."""
    target = models_dir / manifest.name / str(manifest.version)
    temporary = models_dir / manifest.name / f".{manifest.version}.{os.getpid()}"
    for name, data in files.items():
        path = temporary / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (temporary / "manifest.json").write_text(manifest_text(manifest))
    try:
        verify(temporary)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return target


def _has(name: str) -> bool:
    try:
        version(name)
    except ModuleNotFoundError:
        return False
    return True


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
