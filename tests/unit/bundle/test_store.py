"""Versions in service: chosen once, swapped whole, retired after their last request."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.bundle import store as store_module
from service.bundle.store import Bundle, EngineOptions, Store
from service.errors import BundleRefused, NoSuchModel
from tests.networks import write_bundle
from tests.unit.bundle.editing import edit_manifest, edit_network

CPU = EngineOptions(provider="cpu", threads=1)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Two versions of `probe`; activation without its child process, which two tests below start in earnest."""
    write_bundle(tmp_path, "probe", 1)
    write_bundle(tmp_path, "probe", 2)
    monkeypatch.setattr(Store, "_probe", lambda self, folder: None)
    return Store(tmp_path, CPU)


def in_service(store: Store) -> int:
    with store.lease("probe") as bundle:
        return bundle.manifest.version


def test_names_and_versions_are_those_of_the_folder(tmp_path: Path) -> None:
    for version in (1, 2, 10):
        write_bundle(tmp_path, "probe", version)
    write_bundle(tmp_path, "other", 1)
    (tmp_path / "teachers").mkdir()
    (tmp_path / "probe" / ".3.77").mkdir()
    (tmp_path / "probe" / "²").mkdir()
    (tmp_path / "probe" / "²" / "manifest.json").touch()
    (tmp_path / "probe" / "4").mkdir()  # nothing in it
    (tmp_path / "a file").touch()
    store = Store(tmp_path, CPU)
    assert store.names() == ["other", "probe"]
    assert store.versions("probe") == [1, 2, 10]
    assert store.active_version("probe") == 10


@pytest.mark.parametrize("name", ["nothing", "../probe", "", ".", "PROBE", "probe/1"])
def test_an_unknown_name_is_no_such_model(store: Store, name: str) -> None:
    with pytest.raises(NoSuchModel, match="there are: probe"):
        store.load(name)


def test_a_network_is_timed_once_however_often_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under load the second time would be the load's."""
    folder = write_bundle(tmp_path, "probe", 1)
    edit_manifest(folder, lambda document: document["forms"]["float32"].update(machine="Another Processor, 64 cores"))
    times = iter([40.0, 90.0])
    monkeypatch.setattr("service.bundle.load.window_ms", lambda *_, runs: next(times))
    store = Store(tmp_path, CPU)
    assert store.load("probe").budget_s == pytest.approx(0.05)
    store._loaded.clear()
    assert store.load("probe").budget_s == pytest.approx(0.05)


def test_what_is_in_memory_needs_no_folder_any_more(store: Store, tmp_path: Path) -> None:
    store.load("probe")
    shutil.rmtree(tmp_path / "probe")
    assert store.require("probe") == store.load("probe").manifest.version == 2
    with pytest.raises(NoSuchModel):
        store.require("probe", 1)


def test_an_unknown_version_is_no_such_model(store: Store) -> None:
    for use in (store.load, store.manifest, store.activate):
        with pytest.raises(NoSuchModel, match="there are: 1, 2"):
            use("probe", 7)


def test_an_empty_models_folder_has_no_models(tmp_path: Path) -> None:
    assert Store(tmp_path / "nowhere", CPU).names() == []


def test_a_bundle_is_loaded_once(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        bundles = list(pool.map(lambda _: store.load("probe"), range(8)))
    assert all(bundle is bundles[0] for bundle in bundles)
    assert store.is_loaded("probe", 2)
    assert not store.is_loaded("probe", 1)


def test_a_version_can_be_asked_for_without_changing_the_one_in_service(store: Store) -> None:
    assert store.load("probe", 1).manifest.version == 1
    assert in_service(store) == 2


def test_a_folder_that_appears_is_not_served_before_it_is_activated(store: Store, tmp_path: Path) -> None:
    assert in_service(store) == 2
    write_bundle(tmp_path, "probe", 3)
    assert store.versions("probe") == [1, 2, 3]
    assert in_service(store) == store.active_version("probe") == 2
    store.activate("probe", 3)
    assert in_service(store) == store.active_version("probe") == 3


def test_activation_is_remembered_for_the_next_start(store: Store, tmp_path: Path) -> None:
    store.activate("probe", 1)
    assert in_service(Store(tmp_path, CPU)) == 1


def test_a_remembered_version_that_is_gone_is_forgotten(store: Store, tmp_path: Path) -> None:
    (tmp_path / "probe" / "active").write_text("9\n")
    assert in_service(store) == 2


def test_activation_works_where_the_folder_cannot_be_written(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    store.activate("probe", 1)
    assert in_service(store) == 1
    assert "until the next start" in caplog.text


def damage(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"half a file")


def misname(folder: Path) -> None:
    edit_manifest(folder, lambda document: document.update(version=7))


def miss_golden(folder: Path) -> None:
    edit_manifest(folder, lambda document: document["golden"][0]["scores"].update(float32=9.0))


@pytest.mark.parametrize("fault", [damage, misname, miss_golden])
def test_the_one_in_service_stays_when_the_new_one_is_refused(
    store: Store, tmp_path: Path, fault: Callable[[Path], None]
) -> None:
    store.activate("probe", 1)
    fault(tmp_path / "probe" / "2")
    with pytest.raises(BundleRefused):
        store.activate("probe", 2)
    assert in_service(store) == 1
    assert (tmp_path / "probe" / "active").read_text() == "1\n2\n"
    assert not store.is_loaded("probe", 2)


def test_the_old_one_retires_after_its_last_request(store: Store) -> None:
    with store.lease("probe", 2) as outer, store.lease("probe") as inner:
        assert outer is inner
        session = weakref.ref(outer.session)
        store.activate("probe", 1)
        assert store.is_loaded("probe", 2)
        del outer
    assert not store.is_loaded("probe", 2)
    del inner
    gc.collect()
    assert session() is None


def test_a_version_without_requests_retires_at_once(store: Store) -> None:
    assert in_service(store) == 2
    store.activate("probe", 1)
    assert not store.is_loaded("probe", 2)


def test_versions_asked_for_by_number_are_let_go_when_others_are(tmp_path: Path) -> None:
    for version in range(1, 6):
        write_bundle(tmp_path, "probe", version)
    store = Store(tmp_path, CPU)
    assert in_service(store) == 5
    with store.lease("probe", 1):
        for version in (2, 3, 4):
            with store.lease("probe", version):
                pass
        assert store.is_loaded("probe", 1)  # somebody still uses it
    assert [version for version in range(1, 6) if store.is_loaded("probe", version)] == [3, 4, 5]


def test_a_retiring_version_that_is_activated_again_stays(store: Store) -> None:
    with store.lease("probe"):
        store.activate("probe", 1)
        store.activate("probe", 2)
    assert in_service(store) == 2
    assert store.is_loaded("probe", 2)


def test_requests_are_answered_while_another_version_is_loading(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_service(store) == 2
    loading, go_on = threading.Event(), threading.Event()
    original = store_module.load_bundle

    def slow(folder: Path, options: EngineOptions, *told: Any) -> Bundle:
        loading.set()
        assert go_on.wait(30)
        return original(folder, options, *told)

    monkeypatch.setattr(store_module, "load_bundle", slow)
    with ThreadPoolExecutor(2) as pool:
        activation = pool.submit(store.activate, "probe", 1)
        assert loading.wait(30)
        assert pool.submit(in_service, store).result(timeout=30) == 2
        go_on.set()
        activation.result(timeout=30)
    assert in_service(store) == 1


def test_swapping_under_load_never_leaves_a_request_without_its_bundle(store: Store) -> None:
    stop = threading.Event()

    def ask() -> int:
        count = 0
        while not stop.is_set() or not count:
            with store.lease("probe") as bundle:
                assert store.is_loaded("probe", bundle.manifest.version)
                count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        for version in (1, 2, 1, 2, 1):
            store.activate("probe", version)
        stop.set()
        assert all(future.result(timeout=30) for future in asking)
    assert not store.is_loaded("probe", 2)


def test_a_bundle_is_probed_in_a_child_process(tmp_path: Path) -> None:
    write_bundle(tmp_path, "probe", 1)
    write_bundle(tmp_path, "probe", 2)
    store = Store(tmp_path, CPU)
    assert store.activate("probe", 1).manifest.version == 1
    edit_network(tmp_path / "probe" / "2", lambda model: model.graph.node[0].ClearField("input"))
    with pytest.raises(BundleRefused, match="ONNX Runtime cannot load"):
        store.activate("probe", 2)
    assert in_service(store) == 1


def test_a_child_process_that_crashes_refuses_the_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bundle(tmp_path, "probe", 1)
    crashing = tmp_path / "crash"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(crashing))
    with pytest.raises(BundleRefused, match="ended with -11"):
        Store(tmp_path, CPU).activate("probe", 1)


def test_a_pinned_choice_outlives_a_new_version_and_a_restart(store: Store) -> None:
    store.keep_choice("probe")
    write_bundle(store.models_dir, "probe", 3)
    again = Store(store.models_dir, CPU)
    assert again.versions("probe") == [1, 2, 3]
    assert (again.active_version("probe"), in_service(again)) == (2, 2)


def test_two_threads_keep_the_same_choice(store: Store) -> None:
    with ThreadPoolExecutor(2) as pool:
        for kept in [pool.submit(store.keep_choice, "probe") for _ in range(2)]:
            kept.result(30)
    assert sorted(path.name for path in (store.models_dir / "probe").iterdir()) == ["1", "2", "active"]
    assert (store.models_dir / "probe" / "active").read_text() == "2\n"


def test_keeping_a_choice_does_not_undo_another_made_meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, chosen = threading.Event(), threading.Event()
    active_version, remember = Store.active_version, Store._remember

    def slowly(self: Store, name: str) -> int | None:
        found = active_version(self, name)
        if threading.current_thread() is keeping:
            looked.set()
            assert chosen.wait(60)
        return found

    def noted(*asked: Any) -> None:
        chosen.set()
        remember(*asked)

    store.load("probe", 1)
    monkeypatch.setattr(Store, "active_version", slowly)
    monkeypatch.setattr(Store, "_remember", noted)
    keeping = threading.Thread(target=store.keep_choice, args=("probe",))
    keeping.start()
    assert looked.wait(60)
    store.activate("probe", 1)
    keeping.join(60)
    assert Store(store.models_dir, CPU).active_version("probe") == 1


def test_a_new_name_that_was_pinned_answers_once_it_is_activated(store: Store) -> None:
    store.keep_choice("bracket")
    assert store.names() == ["probe"]
    write_bundle(store.models_dir, "bracket", 1)
    assert store.active_version("bracket") is None
    with pytest.raises(NoSuchModel, match=r"no version of 'bracket' is in service yet.*there are 1"):
        store.load("bracket")
    assert store.load("bracket", 1).manifest.version == 1
    assert store.active_version("bracket") is None
    store.activate("bracket", 1)
    assert store.load("bracket").manifest.version == 1
    assert Store(store.models_dir, CPU).active_version("bracket") == 1


def test_the_version_before_is_remembered(store: Store) -> None:
    assert store.previous_version("probe") is None
    store.activate("probe", 1)
    assert Store(store.models_dir, CPU).previous_version("probe") == 2
    store.activate("probe", 1)  # again: nothing changes
    assert store.previous_version("probe") == 2
    store.activate("probe", 2)
    assert store.previous_version("probe") == 1


@pytest.fixture
def crowd(tmp_path: Path) -> Store:
    """Four models and room for two."""
    for name in ("one", "two", "three", "four"):
        write_bundle(tmp_path, name)
    size = Store(tmp_path, CPU).load("one").resident_bytes
    return Store(tmp_path, CPU, memory_bytes=int(2.5 * size))


def loaded(store: Store) -> set[str]:
    return {name for name in store.names() if store.is_loaded(name, 1)}


def test_the_model_used_longest_ago_makes_room(crowd: Store) -> None:
    for name in ("one", "two", "one", "three"):
        with crowd.lease(name):
            pass
    assert loaded(crowd) == {"one", "three"}
    assert crowd.resident_bytes <= crowd.memory_bytes
    with crowd.lease("two") as bundle:  # loaded anew when asked for
        assert bundle.manifest.name == "two"
    assert loaded(crowd) == {"two", "three"}
    assert {bundle.manifest.name for bundle in crowd.in_service()} == {"two", "three"}


def test_a_model_that_answers_stays_whatever_the_budget(crowd: Store) -> None:
    with crowd.lease("one"), crowd.lease("two"), crowd.lease("three"):
        assert loaded(crowd) == {"one", "two", "three"}
    with crowd.lease("four"):
        assert len(loaded(crowd)) == 2


def test_models_that_answered_together_make_room_once_they_have(crowd: Store) -> None:
    with crowd.lease("one"), crowd.lease("two"), crowd.lease("three"):
        assert crowd.resident_bytes > crowd.memory_bytes
    assert loaded(crowd) == {"one", "three"}
    assert crowd.resident_bytes <= crowd.memory_bytes


def test_a_model_without_room_beside_the_pinned_stays_between_its_requests(crowd: Store) -> None:
    crowd.pinned, crowd.memory_bytes = frozenset({"one"}), 1
    for name in ("one", "two", "three", "one"):
        with crowd.lease(name):
            pass
    assert loaded(crowd) == {"one", "three"}


def test_a_pinned_model_stays(crowd: Store) -> None:
    crowd.pinned = frozenset({"one"})
    for name in ("one", "two", "three", "four"):
        crowd.load(name)
    assert loaded(crowd) == {"one", "four"}


def test_a_model_larger_than_the_budget_is_served_alone(crowd: Store) -> None:
    crowd.memory_bytes = 1
    for name in ("one", "two"):
        with crowd.lease(name) as bundle:
            assert bundle.manifest.name == name
        assert loaded(crowd) == {name}


def test_the_version_in_service_is_the_same_after_it_made_room(tmp_path: Path) -> None:
    store = Store(tmp_path, CPU, memory_bytes=1)
    write_bundle(tmp_path, "probe", 1)
    write_bundle(tmp_path, "other", 1)
    assert in_service(store) == 1
    write_bundle(tmp_path, "probe", 2)
    store.load("other")
    assert not store.is_loaded("probe", 1)
    assert in_service(store) == 1


def test_a_loaded_bundle_is_leased_at_once_and_counts_as_used(crowd: Store) -> None:
    assert crowd.lease_loaded("one") is None
    with crowd.lease("one"):
        pass
    crowd.load("two")
    lease = crowd.lease_loaded("one")
    assert lease is not None
    with lease as bundle:
        assert bundle.manifest.name == "one"
        crowd.load("three")
        crowd.load("four")
        assert crowd.is_loaded("one", 1)  # it answers
    assert crowd.lease_loaded("two") is None
    with crowd.lease("two"):
        assert not crowd.is_loaded("one", 1)  # its lease has ended
    assert crowd.lease_loaded("two", 7) is None


def test_a_version_that_took_the_number_of_a_removed_one_is_what_is_put_in_service(store: Store) -> None:
    def sees_as(bundle: Bundle) -> float:
        return float(bundle.session.run(np.full((1, 256, 256, 3), 128, np.uint8)).structural.max())

    first = sees_as(store.activate("probe", 2))
    shutil.rmtree(store.models_dir / "probe" / "2")
    write_bundle(store.models_dir, "probe", 2, gain=2.0)
    with store.lease("probe") as before:
        assert sees_as(before) == first  # until it is put in service
        second = sees_as(store.activate("probe", 2))
        assert second == pytest.approx(2 * first)
        assert sees_as(before) == first  # for what is under way
    with store.lease("probe") as after:
        assert sees_as(after) == second
    assert store.activate("probe", 2) is after  # not loaded again
