"""The network alone: every form of a bundle at every rung, beside the same network run otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.bench import references
from service.bench.timing import median_ms, p99_ms, ratio, take_turns
from service.bench.work import gflop
from service.bundle.manifest import Manifest
from service.bundle.verify import MAX_PIXELS, VerifiedFolder, verify
from service.engine.session import OPENVINO_FORMS, Provider, Session, has_openvino, open_session
from service.errors import BundleRefused
from service.image.decode import decode
from service.image.prepare import plan_tiles, prepare, wanted_kinds
from service.types import TilePlan, Wanted

BASE = "float32"  # the form that the others are compared with, in ONNX Runtime
WHOLE: Wanted = "maps"  # what the references compute of every window, as published


@dataclass(frozen=True, slots=True)
class Row:
    """One form on one provider at one batch. `wanted`: what is computed of each window (a tile's structural map, the shrunk
    whole's logical one, or all maps); `gflop`: of one window's convolutions, less than the layers as published have where the
    graph has folded some away; `ratio_to_float32`: how many times the windows a second of the bundle's float32 form, run
    as it is served, at the same batch for the same outputs."""

    form: str
    provider: str
    wanted: str
    batch: int
    gflop: float
    median_ms: float  # of one batch
    p99_ms: float  # of fewer than 100 rounds: the slowest
    windows_per_s: float
    ratio_to_float32: float


@dataclass(frozen=True, slots=True)
class _Case:
    form: str
    provider: str
    wanted: Wanted
    batch: int
    gflop: float
    run: Callable[[], object]

    @property
    def key(self) -> str:
        return f"{self.form} {self.provider} {self.wanted} {self.batch}"


def measure(
    folder: Path, *, provider: Provider = "auto", threads: int = 0, rounds: int = 20, beside: bool = True
) -> list[Row]:
    """Rows of all forms of the bundle in `folder`, then of the references that are installed, if wanted `beside`.

    Raises BundleRefused when it is not what it promises, NotReady when the provider is not there.
    """
    verified = verify(folder)
    windows = real_windows(verified)
    cases = _served(verified, windows, provider, threads)
    teachers = folder.resolve().parents[1] / "teachers"
    found = references.installed(verified.manifest, _networks(verified), teachers, cases[0].provider, threads)
    served = {(case.form.removesuffix("-openvino"), case.provider) for case in cases}  # forms that run there anyway
    cases += [
        _Case(
            *(reference.form, reference.provider, WHOLE, batch, reference.gflop),
            run=partial(reference.run, _batch(windows, batch)),
        )
        for reference in (found if beside else ())
        if (reference.form, reference.provider) not in served
        for batch in sorted({case.batch for case in cases})
    ]
    seconds = take_turns({case.key: case.run for case in cases}, rounds)
    base = {
        (case.wanted, case.batch): seconds[case.key]
        for case in cases
        if (case.form, case.provider) == (BASE, cases[0].provider)
    }
    return [_row(case, seconds[case.key], base[case.wanted, case.batch]) for case in cases]


def real_windows(verified: VerifiedFolder) -> NDArray[np.uint8]:
    """Windows uint8 [n,256,256,3] of the bundle's golden pictures. Raises BundleRefused when it has none."""
    manifest = verified.manifest
    if not manifest.golden:
        raise BundleRefused(f"{verified.folder} has no golden picture to measure with")
    pictures = [decode(verified.files[golden.file], MAX_PIXELS) for golden in manifest.golden]
    return np.concatenate([prepare(rgb, _plan(rgb, manifest)) for rgb in pictures])


def _plan(rgb: NDArray[np.uint8], manifest: Manifest) -> TilePlan:
    return plan_tiles(rgb.shape[1], rgb.shape[0], manifest.prepare, global_map=manifest.network.global_map)


def _served(verified: VerifiedFolder, windows: NDArray[np.uint8], provider: Provider, threads: int) -> list[_Case]:
    """Each form in the session that would serve it, at its own rungs, for what its windows are run for; float32 at all rungs
    that any form has, and for all that the references compute."""
    manifest = verified.manifest
    kinds = wanted_kinds(manifest.prepare, global_map=manifest.network.global_map)
    sessions = {}
    for name in sorted(manifest.forms, key=lambda form: form != BASE):
        if name in OPENVINO_FORMS and not has_openvino():
            continue
        data = verified.files[manifest.forms[name].file]
        engine: Provider = "openvino" if name in OPENVINO_FORMS else provider
        sessions[name] = open_session(data, form=name, provider=engine, threads=threads, kinds=kinds)
    rungs = sorted({rung for session in sessions.values() for rung in session.ladder})
    found = []
    for name, session in sessions.items():
        for wanted in dict.fromkeys((*kinds, WHOLE) if name == BASE else kinds):
            work = gflop(verified.files[manifest.forms[name].file], _outputs(session, wanted))
            for rung in rungs if name == BASE else session.ladder:
                run = partial(session.run, _batch(windows, rung), wanted)
                found.append(_Case(name, session.provider, wanted, rung, work, run))
    return found


def _outputs(session: Session, wanted: Wanted) -> set[str]:
    """The outputs that are computed for what is wanted: ONNX Runtime has the features beside the structural map."""
    maps = {"structural": {"structural_map"}, "logical": {"logical_map"}}.get(wanted, {"structural_map", "logical_map"})
    return maps | ({"features"} if "structural_map" in maps and not session.features_apart else set())


def _networks(verified: VerifiedFolder) -> dict[str, bytes]:
    forms = verified.manifest.forms.items()
    return {name: verified.files[form.file] for name, form in forms if name not in OPENVINO_FORMS}


def _batch(windows: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    return np.resize(windows, (count, *windows.shape[1:]))  # repeats them as often as needed


def _row(case: _Case, seconds: list[float], base: list[float]) -> Row:
    median = median_ms(seconds)
    return Row(
        form=case.form,
        provider=case.provider,
        wanted=case.wanted,
        batch=case.batch,
        gflop=case.gflop,
        median_ms=round(median, 3),
        p99_ms=round(p99_ms(seconds), 3),
        windows_per_s=round(1000 * case.batch / median, 2),
        ratio_to_float32=round(1 / ratio(seconds, base), 3),
    )
