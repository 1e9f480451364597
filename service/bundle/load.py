"""A verified folder -> a Bundle: the best numerical form that shows itself on its golden pictures."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle.layout import LAYOUT_FILE, read_layout
from service.bundle.manifest import FORM_FILES, Form, FormName, Manifest
from service.bundle.roi import ROI_FILE, read_roi
from service.bundle.verify import MAX_PIXELS, VerifiedFolder, verify
from service.decision.scale import picture_map
from service.engine.machine import machine_name
from service.engine.session import Provider, Session, has_cuda, has_openvino, open_session
from service.errors import BundleRefused, NotReady
from service.image.decode import decode, decode_image, read_header
from service.image.prepare import PrepareRecipe, jpeg_scale, plan_tiles, prepare, wanted_kinds
from service.settings import Settings
from service.types import AnomalyMap, Layout, LocalScale, ModelIdentity, Thresholds, TilePlan

log = logging.getLogger("flawscribe.bundle")
Precision = Literal["auto", "float32", "fp16", "int8", "int8-openvino", "bf16"]
_FORMS_ON: dict[str, tuple[FormName, ...]] = {  # what a provider serves, the best first
    "cuda": ("fp16", "float32", "int8"),
    "openvino": ("int8-openvino", "bf16"),
    "cpu": ("int8", "float32", "fp16"),  # half precision is slower than float32 there
}
# bytes in memory for one of the network's file, as `flawscribe bench memory` measures; OpenVINO keeps its buffers between runs
_RESIDENT, _RESIDENT_OPENVINO = 3.3, 27.0
# how much more it is by the number of kinds of windows, each with a network of its own (`wanted_kinds`)
_SEVERAL, _SEVERAL_OPENVINO = {1: 1.0, 2: 1.5, 3: 2.5}, {1: 1.0, 2: 1.0, 3: 1.4}
# bytes: buffers of a small network are as large as those of others, and maps are compiled twice
_LEAST_OPENVINO = 200_000_000
_CUDA_BUDGET_S = 0.002
_CPU_MARGIN = 1.25  # a CPU's budget over the network's time
_UNKNOWN_CPU_BUDGET_S = 0.25
_TIMED_WINDOWS = 4  # of a picture, at most, when the network is timed


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How networks are run: form wanted, provider wanted, CPU threads (0: as many as allowed), bytes that each may take on
    a GPU (None: all there are)."""

    precision: Precision = "auto"
    provider: Provider = "auto"
    threads: int = 0
    gpu_memory: int | None = None

    @classmethod
    def of(cls, settings: Settings) -> EngineOptions:
        """As the service is set up."""
        limit = None if settings.gpu_memory_mb is None else int(settings.gpu_memory_mb * 2**20)
        return cls(settings.precision, settings.provider, settings.threads, limit)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded model: what it promises, and the session of the form in use. `roi`: bool [H,W], or None.
    `references`: typical normal pictures uint8 [h,w,3]. `measured_ms`: of a window on this CPU, where its manifest's time is
    of another machine.
    """

    folder: Path
    manifest: Manifest
    session: Session
    form_name: FormName
    roi: NDArray[np.bool_] | None
    references: tuple[NDArray[np.uint8], ...] = ()
    network_bytes: int = 0  # of the form's file
    layout: Layout | None = None
    measured_ms: float | None = None

    @property
    def resident_bytes(self) -> int:
        """About how much memory it takes while it is loaded."""
        pictures = sum(picture.nbytes for picture in self.references)
        kinds = len(wanted_kinds(self.manifest.prepare, global_map=self.manifest.network.global_map))
        if self.session.provider == "openvino":
            network = max(_RESIDENT_OPENVINO * self.network_bytes, _LEAST_OPENVINO) * _SEVERAL_OPENVINO[kinds]
        else:
            network = _RESIDENT * self.network_bytes * _SEVERAL[kinds]
        return int(network) + pictures

    @property
    def local(self) -> LocalScale:
        """How its maps are scaled by place."""
        return self.layout or self.manifest.border

    @property
    def form(self) -> Form:
        """Thresholds and calibration of the form in use."""
        return self.manifest.forms[self.form_name]

    @property
    def budget_s(self) -> float:
        """Latency budget of one window where none is set, in seconds."""
        return _budget_s(self.measured_ms or self.form.network_ms_per_window, self.session.provider)

    @property
    def identity(self) -> ModelIdentity:
        """Name, version, precision and provider, as an answer states them."""
        return ModelIdentity(self.manifest.name, self.manifest.version, self.form_name, self.session.provider)

    @property
    def thresholds(self) -> Thresholds:
        """The form's own thresholds."""
        return Thresholds(self.form.review_threshold, self.form.reject_threshold)

    def plan(self, width: int, height: int) -> TilePlan:
        """How a picture of `width` x `height` px is cut for this model."""
        return plan_tiles(width, height, self.manifest.prepare, global_map=self.manifest.network.global_map)

    def decoded(self, data: bytes, max_pixels: int) -> tuple[Image.Image, TilePlan]:
        """An encoded picture, decoded as serving does, and the plan of its windows. Raises UnreadableImage, TooLarge."""
        header = read_header(data, max_pixels)
        scale = jpeg_scale(header.width, header.height, self.manifest.prepare)
        return decode_image(data, max_pixels, jpeg_scale=scale), self.plan(header.width, header.height)

    def anomaly_map_of_file(self, data: bytes, max_pixels: int) -> AnomalyMap:
        """The anomaly map of an encoded picture. Raises UnreadableImage, TooLarge."""
        image, plan = self.decoded(data, max_pixels)
        manifest = self.manifest
        maps = self.session.run(prepare(image, plan), plan.wanted)
        return picture_map(maps, plan, manifest.min_flaw_px, self.roi, self.local)

    def anomaly_map(self, rgb: NDArray[np.uint8]) -> AnomalyMap:
        """The anomaly map of a picture uint8 [H,W,3], synchronously: prepare, network, decision's one map."""
        return anomaly_map_of(
            self.session,
            rgb,
            recipe=self.manifest.prepare,
            global_map=self.manifest.network.global_map,
            min_flaw_px=self.manifest.min_flaw_px,
            roi=self.roi,
            local=self.local,
        )


def anomaly_map_of(
    session: Session,
    rgb: NDArray[np.uint8],
    *,
    recipe: PrepareRecipe,
    global_map: bool,
    min_flaw_px: float,
    roi: NDArray[np.bool_] | None = None,
    local: LocalScale | None = None,
) -> AnomalyMap:
    """The anomaly map of a picture uint8 [H,W,3]: the served path without a queue, for calibration and evaluation too.

    `recipe`, `global_map`, `min_flaw_px` (px of the picture) and `roi` (bool [h,w]), `local` as in the bundle.
    """
    plan = plan_tiles(rgb.shape[1], rgb.shape[0], recipe, global_map=global_map)
    return picture_map(session.run(prepare(rgb, plan), plan.wanted), plan, min_flaw_px, roi, local)


def load_bundle(
    folder: Path, options: EngineOptions = EngineOptions(), window_ms_here: dict[FormName, float] | None = None
) -> Bundle:
    """Verify and load the bundle in `folder`, in the form asked for, or with `auto` in the best that passes its golden pictures.

    `window_ms_here`: milliseconds of each form's window on this machine as far as it was measured; what is measured is added.

    Raises BundleRefused when it is not what it promises or no such form passes, NotReady when the provider is not there.
    """
    verified = verify(folder)
    manifest = verified.manifest
    roi = read_roi(verified.files[ROI_FILE]) if manifest.roi else None
    layout = read_layout(verified.files[LAYOUT_FILE], 1 + manifest.network.global_map) if manifest.layout else None
    failures = []
    for name, provider in _ways_to_try(manifest, options):
        try:
            bundle = _open(verified, name, provider, options, roi, layout)
        except BundleRefused as error:
            failures.append(f"form {name}: {error.detail}")
            continue
        except NotReady as error:
            if options.provider != "auto":
                raise
            failures.append(f"form {name}: {error.detail}")
            continue
        failure = golden_failure(bundle, verified.files)
        if failure is None:
            for text in failures:
                log.warning("%s %s: %s; %s is used instead", manifest.name, manifest.version, text, name)
            if provider == "cuda" or bundle.form.machine == machine_name(options.threads):
                return bundle
            known = {} if window_ms_here is None else window_ms_here
            if name not in known:
                known[name] = _measured_ms(bundle, verified.files)
            return replace(bundle, measured_ms=known[name])
        failures.append(f"form {name}: {failure}")
    why = "; ".join(failures) or f"has no form {options.precision}; it has {', '.join(manifest.forms)}"
    if options.precision != "auto":
        why = f"precision {options.precision} with provider {options.provider} (FLAWSCRIBE_PRECISION, FLAWSCRIBE_PROVIDER): {why}"
    raise BundleRefused(f"{folder}: {why}")


def _ways_to_try(manifest: Manifest, options: EngineOptions) -> list[tuple[FormName, Provider]]:
    """Forms, each with its provider, in order of preference. A form that was asked for is replaced by no other."""
    if options.provider == "auto":
        there: list[tuple[Provider, bool]] = [("cuda", has_cuda()), ("openvino", has_openvino()), ("cpu", True)]
        ways = [(name, provider) for provider, is_there in there if is_there for name in _FORMS_ON[provider]]
    else:
        others = [name for name in FORM_FILES if name not in _FORMS_ON[options.provider]]
        ways = [(name, options.provider) for name in (*_FORMS_ON[options.provider], *others)]
    ways = [way for way in ways if way[0] in manifest.forms]
    if options.precision != "auto":
        asked = [way for way in ways if way[0] == options.precision]
        if not asked and options.precision in manifest.forms:
            return [(options.precision, "cpu")]  # which refuses it with what is missing
        return asked
    return ways


def expected_budget_s(manifest: Manifest | None, options: EngineOptions) -> float:
    """Latency budget of one window where none is set, in seconds: of the form that is tried first here, before it is loaded;
    without a manifest of what is known of the provider alone."""
    if manifest is not None and (ways := _ways_to_try(manifest, options)):
        name, provider = ways[0]
        return _budget_s(manifest.forms[name].network_ms_per_window, provider)
    on_gpu = has_cuda() if options.provider == "auto" else options.provider == "cuda"
    return _CUDA_BUDGET_S if on_gpu else _UNKNOWN_CPU_BUDGET_S


def _budget_s(window_ms: float, provider: str) -> float:
    return _CUDA_BUDGET_S if provider == "cuda" else _CPU_MARGIN * window_ms / 1000


def window_ms(session: Session, windows: NDArray[np.uint8], plan: TilePlan, runs: int = 5) -> float:
    """Milliseconds that a picture's network takes for each of its windows, a few of them at most: all together, as the service has
    them, since windows that run side by side take less than one by one; the quickest of `runs`, since what else the machine
    does meanwhile is not the network's.

    `windows` uint8 [n,256,256,3] by their `plan`.
    """
    windows, wanted = windows[:_TIMED_WINDOWS], plan.wanted[:_TIMED_WINDOWS]
    session.run(windows, wanted)  # the first is slower
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        session.run(windows, wanted)
        times.append(time.perf_counter() - started)
    return 1000 * min(times) / len(windows)


def _measured_ms(bundle: Bundle, files: dict[str, bytes]) -> float:
    """`window_ms` of a golden picture, with few runs: the service waits for it to start."""
    rgb = decode(files[bundle.manifest.golden[0].file], MAX_PIXELS)
    plan = bundle.plan(rgb.shape[1], rgb.shape[0])
    return window_ms(bundle.session, prepare(rgb, plan), plan, runs=3)


def _open(
    verified: VerifiedFolder,
    name: FormName,
    provider: Provider,
    options: EngineOptions,
    roi: NDArray[np.bool_] | None,
    layout: Layout | None,
) -> Bundle:
    manifest = verified.manifest
    data = verified.files[manifest.forms[name].file]
    session = open_session(
        data,
        form=name,
        provider=provider,
        threads=options.threads,
        gpu_memory=options.gpu_memory,
        kinds=wanted_kinds(manifest.prepare, global_map=manifest.network.global_map),
    )
    pictures = ("reference.png", *manifest.references)
    references = tuple(decode(verified.files[file], MAX_PIXELS) for file in pictures if file in verified.files)
    return Bundle(verified.folder, manifest, session, name, roi, references, len(data), layout)


def golden_failure(bundle: Bundle, files: dict[str, bytes]) -> str | None:
    """Why the form in use misses its golden scores; None when it meets them all. Without any it has not shown itself."""
    checked = [golden for golden in bundle.manifest.golden if bundle.form_name in golden.scores]
    for golden in checked:
        expected = golden.scores[bundle.form_name]
        try:
            score = bundle.anomaly_map(decode(files[golden.file], MAX_PIXELS)).score
        except Exception as error:  # whatever the network raises
            return f"{golden.file} cannot be judged: {error}"
        if not score_agrees(score, expected, bundle.manifest.golden_tolerance):
            return f"{golden.file} scores {score:.5g} here, {expected:.5g} where it was trained"
    return None if checked else "no golden picture has a score of this form"


def score_agrees(score: float, expected: float, tolerance: float) -> bool:
    """Whether two scores differ by at most `tolerance`, relative to the larger of |expected| and 0.1 (the scale's unit)."""
    return abs(score - expected) <= tolerance * max(abs(expected), 0.1)
