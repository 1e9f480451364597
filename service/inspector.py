"""Bytes -> Inspection, on one page and without HTTP.

bytes -> header -> room in the queue -> decode, prepare, quality gate -> queue, batch, network -> map, verdict -> record
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import threading
import time
import uuid
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle.load import Bundle, anomaly_map_of
from service.captions.descriptor import FIGURES, LENGTH, Surface, case_descriptor, thinned
from service.captions.figures import region_vector
from service.decision.regions import region_cells, region_pixels
from service.decision.scale import features_at, picture_map
from service.decision.verdict import judge, limits
from service.engine.batcher import Batcher, Runner
from service.engine.session import available_cores
from service.errors import DeadlineExceeded, FlawscribeError
from service.image.decode import decode, decode_image, read_header
from service.image.packing import Packing, pack_tiles, packed, unpacked
from service.image.prepare import as_image, jpeg_scale, prepare
from service.metrics import Metrics
from service.types import AnomalyMap, Inspection, TilePlan, Timings, Verdict, Wanted, WindowMaps

__all__ = ["Inspector", "Picture", "anomaly_map_of", "decide"]
T = TypeVar("T")
log = logging.getLogger("flawscribe.inspector")
_FEATURES_BESIDE: dict[Wanted, Wanted] = {"maps": "maps and features", "structural": "structural and features"}
_MOST_MEASURED = 32  # regions whose shape and colour are measured; a picture with more is noise


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as it came: encoded bytes, or raw RGB uint8 [H,W,3] whose bytes `data` are."""

    data: bytes
    raw: NDArray[np.uint8] | None = None
    metadata: dict[str, str] = field(default_factory=dict)


class _Pixels:
    """A picture's pixels, as decoded for the network or, when that was at a smaller scale, decoded whole when asked for."""

    def __init__(self, data: bytes, max_pixels: int, whole: Image.Image | NDArray[np.uint8] | None) -> None:
        self._data, self._max_pixels, self._whole = data, max_pixels, whole
        self._lock = threading.Lock()

    def __call__(self) -> NDArray[np.uint8]:
        with self._lock:
            if self._whole is None:
                self._whole = decode(self._data, self._max_pixels)
            self._whole = np.asarray(self._whole)
            return self._whole


@dataclass(frozen=True, slots=True)
class _Prepared:
    pixels: _Pixels
    windows: NDArray[np.uint8]
    reasons: Future[tuple[str, ...]]  # of the quality gate, which works while the network does
    sha256: str
    began: float  # time.perf_counter() at which decoding began
    decode_s: float
    prepare_s: float


class Inspector:
    """Owns the queue and the threads that decode. `budget_s`: latency budget of one window in seconds, None: each bundle's
    own."""

    def __init__(
        self,
        metrics: Metrics,
        *,
        queue_windows: int | None,
        max_pixels: int,
        decode_threads: int = 0,
        budget_s: float | None = None,
    ) -> None:
        self.metrics = metrics
        self.budget_s = budget_s
        self._max_pixels = max_pixels
        self.batcher = Batcher(queue_windows, self._observe_batch)
        threads = decode_threads or available_cores()
        self._decoders = ThreadPoolExecutor(threads, thread_name_prefix="flawscribe-decode")
        # neither headers and verdicts nor the quality gate must wait behind pictures that are being decoded
        self._deciders = ThreadPoolExecutor(threads, thread_name_prefix="flawscribe-decide")
        self._gatekeepers = ThreadPoolExecutor(threads, thread_name_prefix="flawscribe-gate")
        self._model_of: weakref.WeakKeyDictionary[Runner, str] = weakref.WeakKeyDictionary()
        metrics.queue_images.set_function(lambda: self.batcher.pictures)

    async def inspect(
        self,
        picture: Picture,
        bundle: Bundle,
        *,
        deadline: float,
        threshold: float | None = None,
        descriptors: bool = False,
        counted: bool = True,
    ) -> Inspection:
        """Judge one picture. `deadline`: time.monotonic(); `threshold`: the caller's own reject threshold; `descriptors`:
        whether those of its regions are wanted; `counted`: whether a part is inspected. A look at what was judged before, or
        a test of the model, stays out of the series of pictures, scores and times.

        Raises UnreadableImage, TooLarge, Overloaded, DeadlineExceeded, NetworkFailure. Cancelling it frees its place.
        """
        self._model_of[bundle.session] = bundle.manifest.name
        async with _until(deadline):
            plan, packing = await self._run(self._deciders, lambda: self._plan(picture, bundle))
        with self.batcher.reserve(packing.windows, bundle.session):
            # features that cost time of their own are computed only for a picture that has regions to describe
            later = descriptors and bundle.session.features_apart
            beside = descriptors and not later
            async with _until(deadline):
                prepared = await self._run(self._decoders, lambda: self._prepare(picture, bundle, plan, packing))
                answer = await self.batcher.submit(
                    bundle.session,
                    prepared.windows,
                    deadline,
                    wanted=[_FEATURES_BESIDE.get(one, one) for one in packing.wanted] if beside else packing.wanted,
                )
                started = time.perf_counter()
                reasons = await asyncio.wrap_future(prepared.reasons)

                def conclude() -> tuple[AnomalyMap, Verdict, NDArray[np.float32] | None]:
                    maps = unpacked(answer.maps, packing)
                    mapped, verdict = decide(maps, bundle, plan, threshold, reasons)
                    asked = descriptors and not (later and verdict.regions)
                    return mapped, verdict, describe(maps, prepared.pixels, mapped, verdict) if asked else None

                anomaly_map, verdict, described = await self._run(self._deciders, conclude)
            ended = time.perf_counter()  # the verdict stands: what follows is no part of the budget
            decide_s = ended - started
            if later and verdict.regions:
                try:
                    async with _until(deadline):
                        tiles = prepared.windows[: packing.tiles]
                        features = await self.batcher.submit(bundle.session, tiles, deadline, wanted="features")
                        described = await self._run(
                            self._deciders,
                            lambda: describe(unpacked(features.maps, packing), prepared.pixels, anomaly_map, verdict),
                        )
                        if counted:
                            self.metrics.stage_seconds.labels("features").observe(time.perf_counter() - ended)
                except FlawscribeError as error:  # a verdict is not lost for want of its descriptors
                    log.warning("a flawed picture is answered without descriptors: %s", error.detail)
        seconds = {
            "decode": prepared.decode_s,
            "prepare": prepared.prepare_s,
            "queue": answer.queue_s,
            "network": answer.network_s,
            "decide": decide_s,
        }
        if counted:
            self._count(bundle, plan, verdict, seconds, ended - prepared.began)
        return Inspection(
            id=uuid.uuid4().hex,
            model=bundle.identity,
            sha256=prepared.sha256,
            pixels=prepared.pixels,
            anomaly_map=anomaly_map,
            verdict=verdict,
            timings=Timings(**{stage: 1000 * value for stage, value in seconds.items()}),
            metadata=picture.metadata,
            descriptors=described,
        )

    def budget_of(self, bundle: Bundle) -> float:
        """Latency budget of one window of that bundle, in seconds."""
        return bundle.budget_s if self.budget_s is None else self.budget_s

    def close(self) -> None:
        """End the inference thread and the other threads; what still waits is answered with NotReady."""
        self.batcher.close()
        for pool in (self._decoders, self._deciders, self._gatekeepers):
            pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    def _plan(self, picture: Picture, bundle: Bundle) -> tuple[TilePlan, Packing]:
        """The picture's windows, from its header alone."""
        if picture.raw is not None:
            height, width = picture.raw.shape[:2]
        else:
            header = read_header(picture.data, self._max_pixels)
            height, width = header.height, header.width
        plan = bundle.plan(width, height)
        return plan, pack_tiles(plan)

    def _prepare(self, picture: Picture, bundle: Bundle, plan: TilePlan, packing: Packing) -> _Prepared:
        sha256 = hashlib.sha256(picture.data).hexdigest()
        started = time.perf_counter()
        scale = jpeg_scale(plan.width, plan.height, bundle.manifest.prepare)
        if picture.raw is None:
            image = decode_image(picture.data, self._max_pixels, jpeg_scale=scale)
        else:
            image = as_image(picture.raw)
        decoded = time.perf_counter()
        scale = plan.width // image.width  # other formats are decoded whole
        reasons = self._gatekeepers.submit(bundle.manifest.quality_gate.reasons, image, scale)
        windows = packed(prepare(image, plan), packing)
        whole = image if picture.raw is None else picture.raw
        pixels = _Pixels(picture.data, self._max_pixels, whole if scale == 1 else None)
        return _Prepared(pixels, windows, reasons, sha256, started, decoded - started, time.perf_counter() - decoded)

    def _observe_batch(self, runner: Runner, pictures: int, windows: int, seconds: float) -> None:
        self.metrics.batch_images.observe(pictures)
        self.metrics.network_seconds.labels(self._model_of[runner]).observe(seconds / windows)

    def _count(self, bundle: Bundle, plan: TilePlan, verdict: Verdict, seconds: dict[str, float], total: float) -> None:
        model, metrics = bundle.manifest.name, self.metrics
        metrics.images.labels(model, verdict.decision.value).inc()
        for stage, value in seconds.items():
            metrics.stage_seconds.labels(stage).observe(value)
        metrics.image_seconds.labels(model).observe(total)
        budget = self.budget_of(bundle)
        metrics.budget_seconds.labels(model).set(budget)
        share = total / (budget * plan.windows)
        metrics.budget_share.labels(model).observe(share)
        metrics.budget_exceeded.labels(model).inc(share > 1)
        if np.isfinite(verdict.score) and bundle.form.reject_threshold > 0:  # else a share of it says nothing
            metrics.anomaly_score.labels(model).observe(verdict.score / bundle.form.reject_threshold)


@contextlib.asynccontextmanager
async def _until(deadline: float) -> AsyncIterator[None]:
    """Ends the block with DeadlineExceeded at the `deadline`, time.monotonic()."""
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            yield
    except TimeoutError as error:
        raise DeadlineExceeded("the deadline passed before the picture could be judged") from error


def decide(
    maps: WindowMaps, bundle: Bundle, plan: TilePlan, threshold: float | None, reasons: tuple[str, ...]
) -> tuple[AnomalyMap, Verdict]:
    """The windows' maps -> the picture's map and verdict."""
    form = bundle.form
    anomaly_map = picture_map(maps, plan, bundle.manifest.min_flaw_px, bundle.roi, bundle.local)
    thresholds = limits(form.review_threshold, form.reject_threshold, threshold)
    return anomaly_map, judge(anomaly_map, thresholds, form.calibration_scores, reasons)


def describe(
    maps: WindowMaps, pixels: Callable[[], NDArray[np.uint8]], anomaly_map: AnomalyMap, verdict: Verdict
) -> NDArray[np.float32] | None:
    """float32 [regions, LENGTH]: what memory compares flaws by. None when there are regions but no features in `maps`."""
    if not verdict.regions:  # an undecidable picture has none, whatever its map says
        return np.zeros((0, LENGTH), np.float32)
    if maps.features is None:
        return None
    review = verdict.thresholds.review
    inside, around = region_cells(anomaly_map, review)
    seen = partial(features_at, maps.features, anomaly_map.plan)
    surface = Surface(seen(thinned(around)))
    figures = np.zeros((len(verdict.regions), FIGURES), np.float32)
    rgb = pixels()
    measured = zip(verdict.regions[:_MOST_MEASURED], region_pixels(anomaly_map, review), strict=False)
    for index, (region, mask) in enumerate(measured):
        figures[index] = region_vector(rgb, region.box, mask)
    features = (surface.features(seen(thinned(cells))) for cells in inside)
    return np.stack([case_descriptor(each, figure) for each, figure in zip(features, figures, strict=True)])
