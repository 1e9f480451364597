"""Bundles in service: load once, lease, swap, retire."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from service.bundle.load import Bundle, EngineOptions, Precision, expected_budget_s, golden_failure, load_bundle
from service.bundle.manifest import NAME_PATTERN, FormName, Manifest
from service.bundle.verify import read_manifest
from service.engine.session import return_memory
from service.errors import BundleRefused, NoSuchModel

__all__ = ["Bundle", "EngineOptions", "Precision", "Store", "expected_budget_s", "golden_failure", "load_bundle"]

log = logging.getLogger("flawscribe.bundle")
_ACTIVE = (
    "active"  # file in a model's folder: the version in service (0: none yet), and on a second line the one before
)
_NONE = 0
_PROBE_SECONDS = 120
_EXTRA_VERSIONS = 2  # kept in memory beside the versions in service, for requests that name one
_VERSION = r"[1-9][0-9]{0,8}"
_Key = tuple[str, int]  # name, version


@dataclass(slots=True)
class _Loaded:
    bundle: Bundle
    leases: int = 0
    retired: bool = False
    used: float = 0.0  # time.monotonic() of its last lease
    origin: tuple[int, int] = (0, 0)  # its manifest file, as _origin tells it


@dataclass(slots=True)
class Store:
    """The models folder. Bundles are loaded when first asked for and kept, as long as `memory_bytes` has room: then the
    one that was used longest ago goes, unless its name is `pinned` or it is answering, and is loaded anew when asked for.

    The version that answers for a name is chosen when it is first loaded, and changes by `activate` alone: a folder that
    appears meanwhile is not served unseen, and after `keep_choice` not at the next start either. Safe to use from several
    threads; a bundle that was replaced goes when its last lease ends.
    """

    models_dir: Path
    options: EngineOptions
    memory_bytes: int | None = None
    pinned: frozenset[str] = frozenset()
    _loaded: dict[_Key, _Loaded] = field(default_factory=dict)
    _in_service: dict[str, int] = field(default_factory=dict)
    _window_ms: dict[_Key, dict[FormName, float]] = field(default_factory=dict)  # as measured here, when first loaded
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _loading: threading.Lock = field(default_factory=threading.Lock)
    _activating: threading.Lock = field(default_factory=threading.Lock)
    _choosing: threading.Lock = field(
        default_factory=threading.Lock
    )  # between looking at what is written down and writing

    def names(self) -> list[str]:
        """Names of the models that have at least one version."""
        if not self.models_dir.is_dir():
            return []
        return sorted(
            path.name for path in self.models_dir.iterdir() if re.match(NAME_PATTERN, path.name) and _versions(path)
        )

    def versions(self, name: str) -> list[int]:
        """Versions of a model, ascending. Raises NoSuchModel."""
        found = _versions(self.models_dir / name) if re.match(NAME_PATTERN, name) else []
        if not found:
            raise NoSuchModel(f"no model {name!r}; there are: {', '.join(self.names()) or 'none'}")
        return found

    def active_version(self, name: str) -> int | None:
        """The version that answers for `name`: the one in service; before that the one activated last, else the highest.

        None for a model that was trained over HTTP and never activated. Raises NoSuchModel.
        """
        if (serving := self._in_service.get(name)) is not None:
            return serving
        versions = self.versions(name)
        chosen = self._remembered(name)[0]
        if chosen == _NONE:
            return None
        return chosen if chosen in versions else versions[-1]

    def previous_version(self, name: str) -> int | None:
        """The version that was in service before the active one, if it is still there. Raises NoSuchModel."""
        before = self._remembered(name)[1]
        return before if before in self.versions(name) else None

    def keep_choice(self, name: str) -> None:
        """Keep the present choice, also over a restart, before a version is added that nobody has looked at; for a new name
        the choice is none. Raises BundleRefused when the models folder cannot be written."""
        folder = self.models_dir / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self._choosing:
                if self._remembered(name)[0] is None:
                    active = self.active_version(name) if _versions(folder) else None
                    self._write_choice(name, active or _NONE, None)
        except OSError as error:
            raise BundleRefused(f"no version can be added to {folder}: {error.strerror}") from error

    def manifest(self, name: str, version: int) -> Manifest:
        """A version's manifest, without loading its network. Raises NoSuchModel or BundleRefused."""
        self.require(name, version)
        return read_manifest(self.models_dir / name / str(version))

    def is_loaded(self, name: str, version: int) -> bool:
        """Whether its network is in memory."""
        return (name, version) in self._loaded

    @property
    def resident_bytes(self) -> int:
        """About how much memory the loaded bundles take."""
        with self._lock:
            return sum(entry.bundle.resident_bytes for entry in self._loaded.values())

    def in_service(self) -> list[Bundle]:
        """The loaded versions that answer for their names."""
        with self._lock:
            keys = [(name, version) for name, version in self._in_service.items()]
            return [self._loaded[key].bundle for key in keys if key in self._loaded]

    def load(self, name: str, version: int | None = None) -> Bundle:
        """Load (once) and warm up. Raises NoSuchModel, BundleRefused or NotReady."""
        wanted = self.require(name, version)
        entry = self._loaded.get((name, wanted)) or self._load(
            name, wanted
        )  # a loaded one waits for no other's loading
        if version is None:
            self._in_service.setdefault(name, wanted)
        return entry.bundle

    @contextlib.contextmanager
    def lease(self, name: str, version: int | None = None) -> Iterator[Bundle]:
        """The bundle for one request; it stays in memory until the request is done."""
        with self._held(self._leased(name, version)) as bundle:
            yield bundle

    def lease_loaded(self, name: str, version: int | None = None) -> AbstractContextManager[Bundle] | None:
        """The same at once, for a bundle that is in memory; None for one that must be loaded first. To be entered."""
        with self._lock:
            wanted = self._in_service.get(name) if version is None else version
            entry = self._loaded.get((name, wanted)) if wanted is not None else None
            if entry is None:
                return None
            entry.leases += 1
            entry.used = time.monotonic()
        return self._held(entry)

    @contextlib.contextmanager
    def _held(self, entry: _Loaded) -> Iterator[Bundle]:
        """A bundle whose lease has been counted, until the block ends."""
        try:
            yield entry.bundle
        finally:
            with self._lock:
                entry.leases -= 1
                self._drop_retired()
                gone = self._make_room()  # what answered while another was loaded could not go then
            _let_go(gone)

    def activate(self, name: str, version: int) -> Bundle:
        """Put a version in service: probed in a child process, loaded, warmed up, then swapped at once.

        The one in service stays when the new one is refused (BundleRefused), and goes after its last request otherwise.
        """
        self.require(name, version)
        with self._activating:
            if not self.is_loaded(name, version) or self._is_another(name, version):
                self._probe(self.models_dir / name / str(version))
                self._load_anew(name, version)
            bundle = self.load(name, version)
            before = self.active_version(name)
            with self._lock:
                self._in_service[name] = version
                self._loaded.setdefault((name, version), _Loaded(bundle)).retired = False
                if before is not None and before != version and (name, before) in self._loaded:
                    self._loaded[name, before].retired = True
                self._drop_retired()
            if before != version or self._remembered(name)[0] != version:
                self._remember(name, version, before if before != version else None)
        return bundle

    def _leased(self, name: str, version: int | None) -> _Loaded:
        while True:
            bundle = self.load(name, version)
            with self._lock:
                entry = self._loaded.get((name, bundle.manifest.version))
                if entry is not None:  # else it was retired between the two lines
                    entry.leases += 1
                    entry.used = time.monotonic()
                    return entry

    def _load(self, name: str, version: int) -> _Loaded:
        with self._loading:
            if (entry := self._loaded.get((name, version))) is None:
                origin = _origin(self.models_dir / name / str(version))
                entry = _Loaded(self._read(name, version), used=time.monotonic(), origin=origin)
                with self._lock:
                    self._loaded[name, version] = entry
                    gone = self._make_room((name, version))
                _let_go(gone)
        return entry

    def _is_another(self, name: str, version: int) -> bool:
        """Whether the version in memory is not what lies in its folder now: it was removed, and another took its number."""
        entry = self._loaded.get((name, version))
        return entry is not None and entry.origin != _origin(self.models_dir / name / str(version))

    def _load_anew(self, name: str, version: int) -> None:
        """Load what is in the folder now, in place of what is in memory under that number, if anything is."""
        if not self._is_another(name, version):
            return
        with self._loading:
            self._window_ms.pop((name, version), None)
            origin = _origin(self.models_dir / name / str(version))
            entry = _Loaded(self._read(name, version), used=time.monotonic(), origin=origin)
            with self._lock:
                self._loaded[name, version] = entry

    def _read(self, name: str, version: int) -> Bundle:
        folder = self.models_dir / name / str(version)
        bundle = load_bundle(folder, self.options, self._window_ms.setdefault((name, version), {}))
        if (bundle.manifest.name, bundle.manifest.version) != (name, version):
            raise BundleRefused(
                f"{folder} holds {bundle.manifest.name} {bundle.manifest.version}, not what its path says"
            )
        bundle.session.warm_up()
        return_memory()
        return bundle

    def _remember(self, name: str, version: int, before: int | None) -> None:
        """Write down the choice for the next start; a models folder that is read-only costs no more than that."""
        try:
            with self._choosing:
                self._write_choice(name, version, before)
        except OSError as error:
            log.warning("%s %s is in service until the next start only: %s", name, version, error)

    def _write_choice(self, name: str, version: int, before: int | None) -> None:
        folder = self.models_dir / name
        temporary = folder / f".{_ACTIVE}.{threading.get_ident()}.{os.getpid()}"  # two threads may write at once
        temporary.write_text(f"{version}\n" if before is None else f"{version}\n{before}\n")
        temporary.replace(folder / _ACTIVE)

    def _remembered(self, name: str) -> tuple[int | None, int | None]:
        """The version chosen (0: none) and the one before it, as written down; None where nothing is."""
        try:
            lines = (self.models_dir / name / _ACTIVE).read_text().split()
            numbers = [int(line) for line in lines[:2]]
        except (OSError, ValueError):
            return None, None
        return (numbers[0] if numbers else None), (numbers[1] if len(numbers) > 1 else None)

    def _make_room(self, newest: _Key | None = None) -> list[Bundle]:
        """Let go, longest unused first, what the budget has no room for; what it was.

        The `newest` stays, by default the one used last of those not pinned: else one that has no room beside the pinned
        ones would be loaded anew for each request.
        """
        if self.memory_bytes is None:
            return []
        taken = sum(entry.bundle.resident_bytes for entry in self._loaded.values())
        by_use = sorted(self._loaded, key=lambda key: self._loaded[key].used)
        free = [key for key in by_use if key[0] not in self.pinned]
        stays = newest or (free[-1] if free else None)
        gone: list[Bundle] = []
        for key in free:
            if taken <= self.memory_bytes:
                break
            if key != stays and not self._loaded[key].leases:
                gone.append(self._loaded.pop(key).bundle)
                taken -= gone[-1].resident_bytes
        return gone

    def _drop_retired(self) -> None:
        """Let go what was replaced, and the versions asked for by number that were used longest ago."""
        extra = [key for key in self._loaded if self._in_service.get(key[0]) != key[1]]
        oldest = sorted(extra, key=lambda key: self._loaded[key].used)[: max(0, len(extra) - _EXTRA_VERSIONS)]
        for key in extra:
            entry = self._loaded[key]
            if not entry.leases and (entry.retired or key in oldest):
                del self._loaded[key]

    def require(self, name: str, version: int | None = None) -> int:
        """The version that is meant: by default the one that answers for the name. Nothing is loaded. Raises NoSuchModel where
        there is none."""
        wanted = self.active_version(name) if version is None else version
        if wanted is not None and self.is_loaded(name, wanted):
            return wanted
        known = self.versions(name)
        listed = ", ".join(map(str, known))
        if wanted is None:
            raise NoSuchModel(
                f"no version of {name!r} is in service yet; put one in service (POST /models/{name}/activate) or name it "
                f"(?version=): there are {listed}"
            )
        if wanted not in known:
            raise NoSuchModel(f"model {name!r} has no version {wanted}; there are: {listed}")
        return wanted

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


def _let_go(gone: list[Bundle]) -> None:
    """Free bundles in a thread of its own: it takes a while, and a lease may end on the event loop."""

    def free() -> None:
        gone.clear()
        return_memory()

    if gone:
        told = ", ".join(f"{bundle.manifest.name} {bundle.manifest.version}" for bundle in gone)
        log.info("let go to make room: %s", told)
        threading.Thread(target=free, name="flawscribe-let-go").start()


def _origin(folder: Path) -> tuple[int, int]:
    """Which bundle lies in a version's folder: that of another training has another manifest file. (0, 0) where none does."""
    try:
        found = (folder / "manifest.json").stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns


def _versions(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(
        int(path.name)
        for path in folder.iterdir()
        if re.fullmatch(_VERSION, path.name) and (path / "manifest.json").is_file()
    )
