"""The other engine gives the same answers behind the same interface."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from service.bundle.load import EngineOptions, load_bundle
from service.engine import session as session_module
from service.engine.session import open_session
from service.errors import BundleRefused, NotReady
from tests.networks import field_network, write_bundle
from tests.unit.bundle.editing import edit_manifest

openvino = pytest.importorskip("openvino", reason="needs the extra `openvino`")
WINDOWS = np.random.default_rng(0).integers(0, 256, (5, 256, 256, 3), dtype=np.uint8)
NETWORK = field_network(np.random.default_rng(1).normal(0, 1, (33, 33)).astype(np.float32))


def opened(form: str = "float32", threads: int = 1, **options: Any) -> Any:
    return open_session(NETWORK, form=form, provider="openvino", threads=threads, **options)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_its_maps_and_features_are_onnx_runtime_s(threads: int) -> None:
    session = opened(threads=threads)
    assert (session.provider, session.has_logical) == ("openvino", True)
    theirs = open_session(NETWORK, form="float32", provider="cpu", threads=1).run(WINDOWS, "maps and features")
    mine = session.run(WINDOWS, "maps and features")
    np.testing.assert_allclose(mine.structural, theirs.structural, atol=1e-3)
    np.testing.assert_allclose(mine.logical, theirs.logical, atol=1e-3)
    np.testing.assert_allclose(mine.features, theirs.features, atol=0.05)  # float16 at 50
    assert mine.features.dtype == np.float16
    assert session.run(WINDOWS[:1]).features is None


def test_a_batch_has_a_window_a_thread_but_no_more_than_four() -> None:
    ladders = {threads: opened(threads=threads).ladder for threads in (1, 2, 4, 6)}
    assert ladders == {1: (1,), 2: (1, 2), 4: (1, 4), 6: (1, 4)}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_window_s_maps_do_not_depend_on_what_runs_beside_it(count: int) -> None:
    alone, session = opened(), opened(threads=2)
    expected = np.concatenate([alone.run(window[None]).structural for window in WINDOWS[:count]])
    np.testing.assert_array_equal(session.run(WINDOWS[:count]).structural, expected)


@pytest.mark.parametrize("count", [1, 2])
def test_an_answer_stays_what_it_was_when_the_next_one_is_made(count: int) -> None:
    session = opened(threads=2)
    first = session.run(WINDOWS[:count]).structural
    kept = first.copy()
    session.run(WINDOWS[2 : 2 + count])
    np.testing.assert_array_equal(first, kept)


def test_a_batch_that_fails_does_not_spoil_the_next_one() -> None:
    session = opened(threads=2)
    expected = session.run(WINDOWS[:2]).structural
    with pytest.raises(RuntimeError):
        session.run(WINDOWS[:2, :100])
    np.testing.assert_array_equal(session.run(WINDOWS[:2]).structural, expected)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_features_alone_are_those_beside_the_maps(count: int) -> None:
    session = opened(threads=2)
    expected = session.run(WINDOWS[:count], "maps and features").features
    found = session.run(WINDOWS[:count], "features")
    assert not found.structural.any()
    assert found.logical is None
    np.testing.assert_array_equal(found.features, expected)


def test_after_warming_up_nothing_is_compiled_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened(threads=2)
    session.warm_up()
    monkeypatch.setattr(session, "_compile", lambda *_: pytest.fail("a request waited for it"))
    assert session.run(WINDOWS, "maps and features").features.shape[0] == len(WINDOWS)


def test_what_a_bundle_s_pictures_never_want_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened(threads=2, kinds=("structural", "logical"))
    session.warm_up()
    assert sorted(session._compiled) == [
        (1, ("features",)),
        (1, ("logical_map",)),
        (1, ("structural_map",)),
        (2, ("logical_map",)),
        (2, ("structural_map",)),
    ]
    whole = session.run(WINDOWS[:1], "maps")  # when it is wanted all the same
    assert (1, ("structural_map", "logical_map")) in session._compiled
    np.testing.assert_array_equal(whole.structural, session.run(WINDOWS[:1], "structural").structural)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_each_window_s_maps_are_those_of_the_whole_network_whatever_runs_beside_it(threads: int) -> None:
    session = opened(threads=threads)
    whole = session.run(WINDOWS)
    wanted = ["structural", "logical", "maps", "structural and features", "logical"]
    found = session.run(WINDOWS, wanted)
    for maps, expected, unread in (
        (found.structural, whole.structural, {1, 4}),
        (found.logical, whole.logical, {0, 3}),
    ):
        for place in range(5):
            np.testing.assert_array_equal(maps[place], 0 if place in unread else expected[place])
    np.testing.assert_array_equal(found.features[3], session.run(WINDOWS[3:4], "features").features[0])


def test_a_network_that_cannot_be_loaded_is_refused() -> None:
    with pytest.raises(BundleRefused, match="OpenVINO cannot load"):
        open_session(b"nothing of the kind", form="float32", provider="openvino")


def test_bfloat16_is_taken_where_the_processor_has_it_and_refused_elsewhere() -> None:
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(BundleRefused, match="does not compute in bfloat16"):
            opened("bf16")
        return
    exact, lower = opened().run(WINDOWS[:1]).structural, opened("bf16").run(WINDOWS[:1]).structural
    assert 0 < np.abs(exact - lower).max() < 0.02 * (exact.max() - exact.min())


def test_where_it_is_not_installed_it_is_not_ready_and_its_forms_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "find_spec", lambda _: None)
    with pytest.raises(NotReady, match=r"flawscribe\[openvino\]"):
        opened()
    with pytest.raises(BundleRefused, match=r"flawscribe\[openvino\]"):
        open_session(NETWORK, form="int8-openvino", provider="auto")


def with_openvino_form(folder: Path, shift: float = 0.0) -> Path:
    """The bundle with its float32 network promised as the int8 one of OpenVINO too."""

    def add(document: dict[str, Any]) -> None:
        document["forms"]["int8-openvino"] = {**document["forms"]["int8"], "reject_threshold": 0.6}
        for golden in document["golden"]:
            golden["scores"]["int8-openvino"] = golden["scores"]["int8"] + shift

    edit_manifest(folder, add)
    return folder


def test_auto_takes_the_form_calibrated_in_openvino_with_its_thresholds(tmp_path: Path) -> None:
    bundle = load_bundle(with_openvino_form(write_bundle(tmp_path, int8_gain=1.0)))
    assert (bundle.form_name, bundle.session.provider) == ("int8-openvino", "openvino")
    assert bundle.thresholds.reject == 0.6


def test_auto_leaves_openvino_for_onnx_runtime_where_its_golden_picture_is_missed(tmp_path: Path) -> None:
    bundle = load_bundle(with_openvino_form(write_bundle(tmp_path, int8_gain=1.0), shift=0.1))
    assert (bundle.form_name, bundle.session.provider) == ("int8", "cpu")


def test_auto_serves_a_bundle_without_its_forms_in_onnx_runtime(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path, int8_gain=1.0))
    assert (bundle.form_name, bundle.session.provider) == ("int8", "cpu")


def test_openvino_asked_for_serves_whatever_the_bundle_has(tmp_path: Path) -> None:
    bundle = load_bundle(write_bundle(tmp_path), EngineOptions(provider="openvino"))
    assert (bundle.form_name, bundle.session.provider) == ("float32", "openvino")


def test_bytes_are_taken_as_they_are_in_int8(tmp_path: Path) -> None:
    """A convolution over bytes by an exact unit, quantised: both engines give the same, near the float network."""
    from service.training.quantize import quantize

    rng = np.random.default_rng(4)
    weight = rng.normal(0, 1, (8, 3, 4, 4)).astype(np.float32)
    last = rng.normal(0, 1, (1, 8, 5, 5)).astype(np.float32)
    constants = {"w": weight, "b": rng.normal(0, 1, 8).astype(np.float32), "l": last, "lb": np.zeros(1, np.float32)}
    constants |= {"unit": np.array(1 / 128, np.float32)}
    nodes = [
        helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["float"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "unit"], ["pixels"], name="unit_of_pixels"),
        helper.make_node("Conv", ["pixels", "w", "b"], ["a"], name="first"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("AveragePool", ["r"], ["p"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "l", "lb"], ["map"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", onnx.TensorProto.UINT8, ["N", 256, 256, 3])],
        [helper.make_tensor_value_info("map", onnx.TensorProto.FLOAT, ["N", 1, None, None])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    plain = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    bright = np.random.default_rng(5).integers(150, 255, (3, 256, 256, 3), dtype=np.uint8)
    quantised = quantize(plain, list(bright))
    proto = onnx.load_model_from_string(quantised)
    assert not {"Cast", "Mul", "Relu"} & {node.op_type for node in proto.graph.node}

    def run(model: bytes, provider: str) -> np.ndarray:
        import onnxruntime

        if provider == "cpu":
            return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"image": bright})[
                0
            ]
        compiled = openvino.Core().compile_model(openvino.Core().read_model(model), "CPU")
        return compiled(bright)[0]

    exact, mine, theirs = run(plain, "cpu"), run(quantised, "cpu"), run(quantised, "openvino")
    spread = exact.max() - exact.min()
    assert np.abs(mine - exact).max() < 0.06 * spread
    assert np.abs(theirs - mine).max() < 0.06 * spread
    assert abs(float((mine - exact).mean())) < 0.006 * spread  # twice that when rounded weights are not made up for
