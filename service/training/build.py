"""Normal images -> bundle, on one page.

folder -> splits -> working resolution -> teacher's features -> training -> ONNX -> forms -> calibration -> report -> bundle
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from service.bundle.folder import next_version, write_bundle
from service.bundle.layout import LAYOUT_FILE, write_layout
from service.bundle.manifest import (
    AUTO,
    FORM_FILES,
    FormName,
    Manifest,
    MapQuantiles,
    Network,
    Quantiles,
)
from service.bundle.manifest import Teacher as TeacherRecord
from service.bundle.roi import ROI_FILE, write_roi
from service.bundle.verify import digest
from service.image.prepare import plan_tiles
from service.image.quality import learn_gate
from service.training.data import (
    Splits,
    decoding_scale,
    load_pictures,
    require_memory,
    split_folder,
)
from service.training.directions import look_along
from service.training.export import round_to_half
from service.training.features import FeatureBank
from service.training.forms import (
    Calibrated,
    Exact,
    HeldOut,
    calibrate_form,
    export_forms,
    golden_pictures,
    jpeg,
    open_form,
    png,
    shrunk,
    varied,
)
from service.training.layout import choose_layout
from service.training.logical import without_idle_autoencoder
from service.training.neighbours import choose_teacher, is_better_lit, small_teachers
from service.training.network import Detector
from service.training.penalty import PenaltyImages
from service.training.product import Picture, Product, product_of
from service.training.recipes import Recipe, recipe_named
from service.training.report import Report, least_normal, samples, write_report
from service.training.runs import BuildSettings, Run, checkpoint_of
from service.training.select import Selection, run_torch
from service.training.teacher import Teacher, load_teacher
from service.training.train import Evaluated, Progress, Trainer
from service.types import Border, Layout

Say = Callable[[str], None]
Obtain = Callable[[Trainer, Path], Detector]
_GOLDEN_TOLERANCE = 0.02  # relative; another processor may round int8 differently
_SEEK_WINDOWS = 240  # of painted and untouched pictures in which the directions of flaws are sought
JUDGE_WINDOWS = 240  # of painted and untouched pictures by which a teacher is chosen and a form kept or dropped
LIGHT_WINDOWS = 480  # the same, of more pictures: light differs between them, and a dozen do not show how
JUDGE_FLAWS = 2  # painted on each of them
_REFERENCES = 5  # normal pictures shown to an LLM, beside the typical one
_FASTEST_FIRST: tuple[FormName, ...] = ("int8-openvino", "bf16", "int8", "float32")
_MOST_TYPICAL = 60  # training pictures among which the references are chosen
_LIBRARIES = ("torch", "onnxruntime-gpu", "onnxruntime", "openvino", "numpy", "pillow")  # on which the scores depend


def build(
    settings: BuildSettings,
    say: Say,
    progress: Progress | None = None,
    evaluated: Evaluated | None = None,
    *,
    obtain: Obtain | None = None,
) -> Path:
    """Train, export, calibrate and write a bundle; returns its folder. Everything wrong with the input is said first.

    `say` is told what begins, `progress` of every step, `evaluated` of every evaluation.
    `obtain` gets the detector from the trainer and its checkpoint file; by default by training to the end.

    Raises BadRequest for unusable input, BundleRefused when ONNX Runtime does not reproduce the network.
    """
    started = time.monotonic()
    splits = split_folder(settings.data, settings.group_by, settings.seed)
    recipe = _recipe(settings, len(splits.train))
    teacher = _teacher(settings)
    product = product_of(settings, splits)
    splits = replace(splits, notes=(*splits.notes, *product.notes(splits.images)))
    _announce(splits, product, say)
    scale = decoding_scale(splits.images, product.recipe)
    require_memory(splits.images, scale, product.recipe)
    penalty = PenaltyImages(settings.penalty, say)
    smallest = product.min_flaw_px
    product = replace(product, min_flaw_px=smallest / scale)  # in px of the pictures as they are decoded
    loaded = iter(load_pictures(splits.images, scale))
    pictures, held_out, calibration = (
        list(islice(loaded, len(images))) for images in (splits.train, splits.validation, splits.calibration)
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher, product, judge = _suited(settings, teacher, product, pictures, held_out, device, say)
    # a file stays as it was given: by its name alone `flawscribe export` would not find it
    chosen = teacher.name if settings.teacher == AUTO else settings.teacher
    settings = replace(settings, teacher=chosen, lighting=product.recipe.lighting)
    chooser = _chooser(settings, product, held_out)
    say(f"preparing {len(pictures)} pictures on the {device.type.upper()} (teacher {teacher.name})")
    bank = FeatureBank(pictures, product.recipe, teacher.network.to(device))
    trainer = Trainer(
        teacher.network,
        bank,
        penalty,
        chooser,
        recipe,
        global_map=product.global_map,
        seed=settings.seed,
        minutes=settings.minutes,
    )
    run = Run(settings, splits.fingerprint(), teacher.sha256, penalty.digest, asdict(recipe))
    checkpoint = checkpoint_of(run, obtain is None, say)
    detector = trainer.run(checkpoint, progress, evaluated) if obtain is None else obtain(trainer, checkpoint)
    say("learned; now making the forms that serve, and setting thresholds: some minutes")
    detector, product, chooser, judge = _finished(
        detector.cpu(), recipe, settings, product, (chooser, judge), (pictures, held_out), say
    )
    separation = chooser.separation_of(lambda windows: run_torch(detector, windows)).mean
    layout = product.local if isinstance(product.local, Layout) else None
    networks = export_forms(
        detector, bank, judge, say, half=device.type == "cuda" if settings.half is None else settings.half
    )
    sessions = {name: open_form(data, name) for name, data in networks.items()}
    exact = Exact.of(detector, chooser)
    calibrated = {
        name: calibrate_form(
            name,
            networks[name],
            session,
            product,
            exact,
            HeldOut(splits.calibration, calibration),
            settings.false_reject_rate,
        )
        for name, session in sessions.items()
    }
    forms = {name: each.form for name, each in calibrated.items()}
    notes = [*splits.notes, *_stands_on_one(calibrated, say)]
    golden, files = golden_pictures(replace(product, min_flaw_px=smallest), sessions, calibration)
    fastest = next(name for name in _FASTEST_FIRST if name in sessions)
    say(f"judging {len(pictures) + len(held_out)} training pictures, to show those that look least normal")
    scores = [product.score(sessions[fastest], picture) for picture in (*pictures, *held_out)]
    references = _references(pictures[:_MOST_TYPICAL], scores)
    files |= {FORM_FILES[name]: data for name, data in networks.items()} | references | _extras(layout, product.roi)
    seconds = time.monotonic() - started
    report = Report(
        name=settings.name,
        data=settings.data.name,
        counts=_counts(splits),
        notes=notes,
        forms=calibrated,
        shown_form=fastest,
        history=trainer.history,
        separation=separation,
        ranked=len(scores),
        suspects=least_normal(settings.data, splits, product, sessions[fastest], [*pictures, *held_out], scores),
        samples=samples(settings.seed, product, sessions[fastest], held_out),
        seconds=seconds,
        recipe=settings.recipe,
        teacher=teacher.name,
        lighting=product.recipe.lighting,
        by_place=isinstance(product.local, Layout),
    )
    files["report.html"] = write_report(report).encode()
    manifest = Manifest(
        name=settings.name,
        version=next_version(settings.models_dir / settings.name),
        created_at=datetime.now(UTC),
        network=Network(size=teacher.size, global_map=product.global_map),
        prepare=product.recipe,
        quantiles=_quantiles(detector),
        border=product.local if isinstance(product.local, Border) else Border(),
        min_flaw_px=smallest,
        mm_per_pixel=settings.mm_per_pixel,
        quality_gate=learn_gate([*pictures, *held_out, *calibration], scale, min(map(product.seen_pixels, pictures))),
        forms=forms,
        references=tuple(references)[1:],
        golden=golden,
        golden_tolerance=_GOLDEN_TOLERANCE,
        teacher=TeacherRecord(name=teacher.name, sha256=teacher.sha256),
        roi=product.roi is not None,
        layout=layout is not None,
        metrics={"painted_flaw_separation": round(separation, 5), "training_seconds": round(seconds, 1)},
        data={
            "fingerprint": splits.fingerprint(),
            "images": _counts(splits),
            "notes": notes,
        },
        training={
            **asdict(recipe),
            "steps_done": trainer.history.losses[-1][0],
            "seed": settings.seed,
            "minutes": settings.minutes,
            "group_by": settings.group_by,
            "penalty": _penalty_of(recipe, settings),
            "penalty_images": len(penalty.crops),
        },
        libraries={name: version(name) for name in _LIBRARIES if _has(name)},
        files=digest(files),
    )
    return write_bundle(settings.models_dir / settings.name, manifest, files)


def _suited(
    settings: BuildSettings,
    teacher: Teacher | None,
    product: Product,
    pictures: Sequence[Picture],
    held_out: Sequence[Picture],
    device: torch.device,
    say: Say,
) -> tuple[Teacher, Product, Selection]:
    """The teacher and the light that suit the product, as far as they are not asked for by name, and the painted flaws by
    which that was judged, in that light."""

    judged = _judge(settings, product, held_out)
    teacher = teacher or choose_teacher(settings.teachers_dir, pictures, product.recipe, judged.examples, device, say)
    if settings.lighting != "auto":
        return teacher, product, judged
    other = product.recipe.model_copy(update={"lighting": "even"})
    evened = replace(product, recipe=other)
    as_is, even = (
        (each.recipe, _judge(settings, each, held_out, LIGHT_WINDOWS).examples) for each in (product, evened)
    )
    if not is_better_lit(teacher.network.to(device), pictures, as_is, even, say):
        return teacher, product, judged
    return teacher, evened, _judge(settings, evened, held_out)


def _recipe(settings: BuildSettings, images: int) -> Recipe:
    """The recipe asked for, of so many training pictures. Raises BadRequest for an unknown name."""
    recipe = recipe_named(settings.recipe, images)
    if settings.steps is not None:
        recipe = replace(recipe, steps=settings.steps)
    if settings.penalty is not None:
        recipe = replace(recipe, penalty_batch=max(1, recipe.penalty_batch))
    return recipe


def _teacher(settings: BuildSettings) -> Teacher | None:
    """The one that was named; None where it is to be chosen. Raises BadRequest where there is none, or none to choose from."""
    if settings.teacher != AUTO:
        return load_teacher(settings.teacher, settings.teachers_dir)
    small_teachers(settings.teachers_dir)
    return None


def _finished(
    detector: Detector,
    recipe: Recipe,
    settings: BuildSettings,
    product: Product,
    painted: tuple[Selection, Selection],
    pictures: tuple[Sequence[Picture], Sequence[Picture]],
    say: Say,
) -> tuple[Detector, Product, Selection, Selection]:
    """The trained detector as it is exported: without an autoencoder that has learned nothing, rounded to what is stored, its map
    along the directions of flaws, its quantiles set; the product with what is normal at the border or at each place; and the
    painted flaws, chooser's and judge's, in their light. `pictures`: to learn from, and held out."""
    (chooser, judge), (seen, held_out) = painted, pictures
    if settings.recipe == "default" and product.global_map:
        detector = without_idle_autoencoder(detector, chooser.examples, say)
        if detector.autoencoder is None:
            product = replace(product, global_map=False)
            chooser, judge = _chooser(settings, product, held_out), _judge(settings, product, held_out)
    round_to_half(detector, whitened=recipe.directions is None)
    if recipe.directions is not None:
        seek = Selection(
            held_out,
            product.recipe,
            global_map=False,
            min_flaw_px=product.min_flaw_px,
            roi=product.roi,
            seed=settings.seed + 2,
            flaws_each=3,
            window_limit=_SEEK_WINDOWS,
        )
        say(look_along(detector, recipe.directions, seek, chooser))
    chooser.score(detector)  # sets the quantiles anew, for the rounded weights
    judge.local = chooser.local = (
        choose_layout(settings.layout, detector, seen, product.recipe, chooser, say) or chooser.local
    )
    return detector, replace(product, local=chooser.local), chooser, judge


def _chooser(settings: BuildSettings, product: Product, held_out: Sequence[Picture]) -> Selection:
    """Painted flaws by which the best step is chosen, and the normals that set the maps' scales."""
    return Selection(
        held_out,
        product.recipe,
        global_map=product.global_map,
        min_flaw_px=product.min_flaw_px,
        roi=product.roi,
        seed=settings.seed,
        by_level=settings.recipe == "default",
    )


def _judge(
    settings: BuildSettings, product: Product, held_out: Sequence[Picture], windows: int = JUDGE_WINDOWS
) -> Selection:
    """Other painted flaws, by which teachers, light and numerical forms are judged."""
    return Selection(
        held_out,
        product.recipe,
        global_map=product.global_map,
        min_flaw_px=product.min_flaw_px,
        roi=product.roi,
        seed=settings.seed + 1,
        flaws_each=JUDGE_FLAWS,
        window_limit=windows,
    )


def _extras(layout: Layout | None, roi: NDArray[np.bool_] | None) -> dict[str, bytes]:
    """Files that only some bundles have."""
    files = {} if layout is None else {LAYOUT_FILE: write_layout(layout)}
    return files if roi is None else {**files, ROI_FILE: write_roi(roi)}


def _references(pictures: Sequence[Picture], scores: Sequence[float]) -> dict[str, bytes]:
    """Files of normal pictures, small: the one with the middle one of their `scores` first, then others as unlike it and each
    other as they come."""
    typical = int(np.argsort(scores[: len(pictures)])[len(pictures) // 2])
    others = varied(pictures, typical, _REFERENCES)
    shown = {f"references/{index}.jpg": jpeg(shrunk(picture, 512)) for index, picture in enumerate(others)}
    return {"reference.png": png(shrunk(pictures[typical], 512)), **shown}


def _announce(splits: Splits, product: Product, say: Say) -> None:
    say(
        f"{len(splits.train)} pictures to learn from, {len(splits.validation)} to choose the best step by, "
        f"{len(splits.calibration)} to set thresholds by"
    )
    image = splits.train[0]
    plan = plan_tiles(image.width, image.height, product.recipe, global_map=product.global_map)
    say(
        f"pictures of {image.width}x{image.height} px are judged at {plan.working_width}x{plan.working_height}, in "
        f"{plan.windows} window{'s' if plan.windows > 1 else ''}; the smallest flaw that counts is {product.min_flaw_px:g} px"
    )
    for note in splits.notes:
        say(f"note: {note}")


def _stands_on_one(calibrated: Mapping[FormName, Calibrated], say: Say) -> list[str]:
    """The note, said as well, when a single part sets the reject threshold: by the first form of which that is so."""
    found = next(((name, note) for name, each in calibrated.items() if (note := each.note()) is not None), None)
    if found is None:
        return []
    say(f"note: {found[1]}")
    return [f"in form {found[0]}, {found[1]}"]


def _quantiles(detector: Detector) -> Quantiles:
    low, high = detector.q_a.tolist(), detector.q_b.tolist()
    logical = MapQuantiles(q_a=low[1], q_b=high[1]) if detector.autoencoder is not None else None
    return Quantiles(structural=MapQuantiles(q_a=low[0], q_b=high[0]), logical=logical)


def _counts(splits: Splits) -> dict[str, int]:
    return {use: len(getattr(splits, use)) for use in ("train", "validation", "calibration")}


def _penalty_of(recipe: Recipe, settings: BuildSettings) -> str:
    """What penalty images there were, in a word."""
    if not recipe.penalty_batch:
        return "none"
    return "generated textures" if settings.penalty is None else settings.penalty.resolve().name


def _has(name: str) -> bool:
    try:
        version(name)
    except ModuleNotFoundError:
        return False
    return True
