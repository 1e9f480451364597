"""Bundles on disk and in service: load, golden check, swap, retire."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.bundle.manifest import NAME_PATTERN, Form, FormName, Manifest
from service.bundle.verify import VerifiedFolder, read_manifest, verify
from service.decision.scale import picture_map
from service.engine.session import Provider, Session, open_session
from service.errors import BundleRefused, NoSuchModel
from service.image.prepare import plan_tiles, prepare
from service.types import AnomalyMap, ModelIdentity, Thresholds, TilePlan

log = logging.getLogger("flawscribe.bundle")
Precision = Literal["auto", "float32", "fp16", "int8"]
_ACTIVE = "active"  # file in a model's folder that names the version in service
_PROBE_SECONDS = 120


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How networks are run: form wanted, provider wanted, CPU threads (0: as many as allowed)."""

    precision: Precision = "auto"
    provider: Provider = "auto"
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Bundle:
    """A loaded model: what it promises, and the session of the form in use. `roi`: bool [H,W], or None."""

    folder: Path
    manifest: Manifest
    session: Session
    form_name: FormName
    roi: NDArray[np.bool_] | None

    @property
    def form(self) -> Form:
        """Thresholds and calibration of the form in use."""
        return self.manifest.forms[self.form_name]

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

    def anomaly_map(self, rgb: NDArray[np.uint8]) -> AnomalyMap:
        """The anomaly map of a picture uint8 [H,W,3], synchronously: prepare, network, decision's one map."""
        plan = self.plan(rgb.shape[1], rgb.shape[0])
        return picture_map(self.session.run(prepare(rgb, plan)), plan, self.manifest.min_flaw_px, self.roi)


def load_bundle(folder: Path, options: EngineOptions = EngineOptions()) -> Bundle:
    """Verify and load the bundle in `folder`, in the best form that passes its golden pictures.

    Raises BundleRefused when it is not what it promises or no form passes, NotReady when the provider is not there.
    """
    verified = verify(folder)
    manifest = verified.manifest
    roi = None
    if manifest.roi:
        roi = np.asarray(Image.open(io.BytesIO(verified.files["roi.png"])).convert("L")) > 127
    failures = []
    for name in _forms_to_try(manifest, options):
        bundle = _open(verified, name, options, roi)
        if bundle.session.provider == "cpu" and name == "fp16" and options.precision == "auto":
            continue  # half precision is slower than float32 on a CPU
        failure = golden_failure(bundle, verified.files)
        if failure is None:
            return bundle
        failures.append(f"form {name}: {failure}")
        log.warning("%s %s: form %s is not used: %s", manifest.name, manifest.version, name, failure)
    raise BundleRefused(f"{folder}: " + ("; ".join(failures) or f"has no form {options.precision}"))


def _forms_to_try(manifest: Manifest, options: EngineOptions) -> list[FormName]:
    """In order of preference; a form that was asked for falls back to float32 only through its golden pictures."""
    if options.precision != "auto":
        wanted: list[FormName] = [options.precision, "float32"]
    elif options.provider == "cpu" or open_provider() == "cpu":
        wanted = ["int8", "float32"]
    else:
        wanted = ["fp16", "float32"]
    if options.precision != "auto" and options.precision not in manifest.forms:
        return []
    return list(dict.fromkeys(name for name in wanted if name in manifest.forms))


def open_provider() -> str:
    """`cuda` where an NVIDIA device is there, else `cpu`."""
    return "cuda" if Path("/dev/nvidiactl").exists() else "cpu"


def _open(verified: VerifiedFolder, name: FormName, options: EngineOptions, roi: NDArray[np.bool_] | None) -> Bundle:
    manifest = verified.manifest
    data = verified.files[manifest.forms[name].file]
    session = open_session(data, form=name, provider=options.provider, threads=options.threads)
    return Bundle(verified.folder, manifest, session, name, roi)


def golden_failure(bundle: Bundle, files: dict[str, bytes]) -> str | None:
    """Why the form in use misses its golden scores; None when it meets them all."""
    for golden in bundle.manifest.golden:
        if bundle.form_name not in golden.scores:
            continue
        expected = golden.scores[bundle.form_name]
        score = bundle.anomaly_map(np.asarray(Image.open(io.BytesIO(files[golden.file])).convert("RGB"))).score
        if not score_agrees(score, expected, bundle.manifest.golden_tolerance):
            return f"{golden.file} scores {score:.5g} here, {expected:.5g} where it was trained"
    return None


def score_agrees(score: float, expected: float, tolerance: float) -> bool:
    """Whether two scores differ by at most `tolerance`, relative to the larger of |expected| and 0.1 (the scale's unit)."""
    return abs(score - expected) <= tolerance * max(abs(expected), 0.1)


@dataclass(slots=True)
class _Loaded:
    bundle: Bundle
    leases: int = 0
    retired: bool = False


@dataclass(slots=True)
class Store:
    """The models folder. Bundles are loaded when first asked for and kept; the active version answers for a name.

    Safe to use from several threads. A bundle that was replaced goes when its last lease ends.
    """

    models_dir: Path
    options: EngineOptions
    _loaded: dict[tuple[str, int], _Loaded] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _loading: threading.Lock = field(default_factory=threading.Lock)

    def names(self) -> list[str]:
        """Names of the models that have at least one version."""
        if not self.models_dir.is_dir():
            return []
        return sorted(
            path.name
            for path in self.models_dir.iterdir()
            if re.match(NAME_PATTERN, path.name) and self._versions(path)
        )

    def versions(self, name: str) -> list[int]:
        """Versions of a model, ascending. Raises NoSuchModel."""
        found = self._versions(self.models_dir / name) if re.match(NAME_PATTERN, name) else []
        if not found:
            raise NoSuchModel(f"no model {name!r}; there are: {', '.join(self.names()) or 'none'}")
        return found

    def active_version(self, name: str) -> int:
        """The version that answers for `name`: the one activated last, else the highest."""
        versions = self.versions(name)
        with contextlib.suppress(OSError, ValueError):
            chosen = int((self.models_dir / name / _ACTIVE).read_text())
            if chosen in versions:
                return chosen
        return versions[-1]

    def manifest(self, name: str, version: int) -> Manifest:
        """A version's manifest, without loading its network. Raises NoSuchModel or BundleRefused."""
        self._known(name, version)
        return read_manifest(self.models_dir / name / str(version))

    def is_loaded(self, name: str, version: int) -> bool:
        """Whether its network is in memory."""
        return (name, version) in self._loaded

    def load(self, name: str, version: int | None = None) -> Bundle:
        """Load (once) and warm up. Raises NoSuchModel, BundleRefused or NotReady."""
        key = (name, self.active_version(name) if version is None else version)
        self._known(*key)
        with self._loading:
            entry = self._loaded.get(key)
            if entry is None:
                bundle = load_bundle(self.models_dir / name / str(key[1]), self.options)
                bundle.session.warm_up()
                entry = self._loaded[key] = _Loaded(bundle)
        return entry.bundle

    @contextlib.contextmanager
    def lease(self, name: str, version: int | None = None) -> Iterator[Bundle]:
        """The bundle for one request; it stays in memory until the request is done."""
        bundle = self.load(name, version)
        key = (bundle.manifest.name, bundle.manifest.version)
        with self._lock:
            entry = self._loaded.setdefault(key, _Loaded(bundle))
            entry.leases += 1
        try:
            yield bundle
        finally:
            with self._lock:
                entry.leases -= 1
                self._drop_retired()

    def activate(self, name: str, version: int) -> Bundle:
        """Put a version in service: probed in a child process, loaded, warmed up, then swapped at once.

        The one in service stays when the new one is refused (BundleRefused), and goes after its last request otherwise.
        """
        self._known(name, version)
        before = self.active_version(name)
        self._probe(self.models_dir / name / str(version))
        bundle = self.load(name, version)
        temporary = self.models_dir / name / f".{_ACTIVE}.{os.getpid()}"
        temporary.write_text(f"{version}\n")
        temporary.replace(self.models_dir / name / _ACTIVE)
        with self._lock:
            self._loaded[name, version].retired = False
            if before != version and (name, before) in self._loaded:
                self._loaded[name, before].retired = True
            self._drop_retired()
        return bundle

    def _drop_retired(self) -> None:
        for key in [key for key, entry in self._loaded.items() if entry.retired and not entry.leases]:
            del self._loaded[key]

    def _known(self, name: str, version: int) -> None:
        if version not in self.versions(name):
            known = ", ".join(map(str, self.versions(name)))
            raise NoSuchModel(f"model {name!r} has no version {version}; there are: {known}")

    def _probe(self, folder: Path) -> None:
        """Load the network in a child process first: a file that crashes ONNX Runtime must not take the service along."""
        command = [sys.executable, "-m", "service.bundle.probe", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise BundleRefused(f"{folder}: did not load within {_PROBE_SECONDS} s") from error
        if done.returncode:
            raise BundleRefused(
                (done.stderr.strip().splitlines() or [f"{folder}: loading it ended with {done.returncode}"])[-1]
            )

    @staticmethod
    def _versions(folder: Path) -> list[int]:
        if not folder.is_dir():
            return []
        return sorted(
            int(path.name) for path in folder.iterdir() if path.name.isdigit() and (path / "manifest.json").is_file()
        )
