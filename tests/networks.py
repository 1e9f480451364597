"""Tiny ONNX networks with the contract's interface, and whole bundles around them: what tests serve."""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from PIL import Image

from service.bundle.layout import LAYOUT_FILE, write_layout
from service.bundle.manifest import (
    Form,
    Golden,
    Manifest,
    MapQuantiles,
    Network,
    Parity,
    Quantiles,
    Teacher,
    ThresholdRule,
)
from service.bundle.verify import digest, manifest_text
from service.decision.scale import picture_map
from service.engine.machine import machine_name
from service.engine.session import open_session
from service.image.prepare import PrepareRecipe, plan_tiles, prepare
from service.image.quality import QualityGate
from service.types import Layout

POISON = (1, 2, 3)  # a window whose pixel (16,16) has this colour makes the network fail
FIRST, REACH = 14, 5  # cell i is the mean darkness of window pixels 4i+14 .. 4i+18, centred on 4i+16


def darkness_network(global_map: bool = False, gain: float = 1.0) -> bytes:
    """A network whose structural map is the darkness (0..1, times `gain`) around each cell's centre."""
    constants = {
        "axis_colour": np.array([3], np.int64),
        "start": np.array([FIRST, FIRST], np.int64),
        "stop": np.array([FIRST + 4 * 55 + REACH] * 2, np.int64),
        "plane": np.array([1, 2], np.int64),
        "scale": np.array(-gain / 255, np.float32),
        "shift": np.array(gain, np.float32),
        "one": np.array([1], np.int64),
        "channels": np.ones((1, 384, 1, 1), np.float32),
        "corner_start": np.array([16, 16], np.int64),
        "corner_stop": np.array([17, 17], np.int64),
        "poison": np.array(POISON, np.int64),
        "all_axes": np.array([1, 2, 3], np.int64),
        "far": np.array(9, np.int64),
        "table": np.array([1.0], np.float32),
        "map_axes": np.array([1, 2], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "axis_colour"], ["grey"], keepdims=0),
        helper.make_node("Slice", ["grey", "start", "stop", "plane"], ["inner"]),
        helper.make_node("Unsqueeze", ["inner", "one"], ["planes"]),
        helper.make_node("AveragePool", ["planes"], ["pooled"], kernel_shape=[REACH, REACH], strides=[4, 4]),
        helper.make_node("Squeeze", ["pooled", "one"], ["cells"]),
        helper.make_node("Mul", ["cells", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["dark"]),
        helper.make_node("Slice", ["image", "corner_start", "corner_stop", "plane"], ["corner"]),
        helper.make_node("Cast", ["corner"], ["corner_int"], to=TensorProto.INT64),
        helper.make_node("Equal", ["corner_int", "poison"], ["same"]),
        helper.make_node("Cast", ["same"], ["same_int"], to=TensorProto.INT64),
        helper.make_node("ReduceMin", ["same_int", "all_axes"], ["poisoned"], keepdims=0),
        helper.make_node("Mul", ["poisoned", "far"], ["index"]),
        helper.make_node("Gather", ["table", "index"], ["unit"]),  # out of bounds for a poisoned window
        helper.make_node("Unsqueeze", ["unit", "map_axes"], ["unit_map"]),
        helper.make_node("Mul", ["dark", "unit_map"], ["structural_map"]),
        helper.make_node("Unsqueeze", ["structural_map", "one"], ["again"]),
        helper.make_node("Mul", ["again", "channels"], ["wide"]),
        helper.make_node("Cast", ["wide"], ["features"], to=TensorProto.FLOAT16),
    ]
    outputs = [helper.make_tensor_value_info("structural_map", TensorProto.FLOAT, ["N", 56, 56])]
    if global_map:
        nodes.append(helper.make_node("Identity", ["structural_map"], ["logical_map"]))
        outputs.append(helper.make_tensor_value_info("logical_map", TensorProto.FLOAT, ["N", 56, 56]))
    outputs.append(helper.make_tensor_value_info("features", TensorProto.FLOAT16, ["N", 384, 56, 56]))
    return _model("darkness", nodes, outputs, constants)


def field_network(kernel: np.ndarray) -> bytes:
    """A network that weighs a cell's whole field, window pixels 4i .. 4i+32, with `kernel` float32 [33,33].

    Its structural map is the weighted darkness (0..1), its logical map the weighted redness (-0.5..1).
    """
    dark = np.stack([kernel] * 3) / -(3 * 255)
    red = np.stack([kernel, -kernel / 2, -kernel / 2]) / 255
    constants = {
        "weight": np.stack([dark, red]).astype(np.float32),
        "bias": np.array([kernel.sum(), 0], np.float32),
        "halves": np.array([1, 1], np.int64),
        "one": np.array([1], np.int64),
        "channels": np.ones((1, 384, 1, 1), np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "weight", "bias"], ["both"], strides=[4, 4]),
        helper.make_node("Split", ["both", "halves"], ["dark", "red"], axis=1),
        helper.make_node("Squeeze", ["dark", "one"], ["structural_map"]),
        helper.make_node("Squeeze", ["red", "one"], ["logical_map"]),
        helper.make_node("Mul", ["dark", "channels"], ["wide"]),
        helper.make_node("Cast", ["wide"], ["features"], to=TensorProto.FLOAT16),
    ]
    outputs = [
        helper.make_tensor_value_info("structural_map", TensorProto.FLOAT, ["N", 56, 56]),
        helper.make_tensor_value_info("logical_map", TensorProto.FLOAT, ["N", 56, 56]),
        helper.make_tensor_value_info("features", TensorProto.FLOAT16, ["N", 384, 56, 56]),
    ]
    return _model("field", nodes, outputs, constants)


def _model(name: str, nodes: list[NodeProto], outputs: list[ValueInfoProto], constants: dict[str, np.ndarray]) -> bytes:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 256, 256, 3])
    initializers = [numpy_helper.from_array(value, constant) for constant, value in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, name, [image], outputs, initializers), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 9
    return bytes(model.SerializeToString())


OPEN_GATE = QualityGate(
    min_sharpness=-1,
    min_brightness=-1,
    max_brightness=256,
    min_contrast=-1,
    max_clipped=1,
    min_pixels=0,
    min_aspect=0,
    max_aspect=1e9,
    histogram=(1 / 16,) * 16,
    min_overlap=-1,
)


def grey_picture(height: int = 224, width: int = 224, level: int = 230) -> np.ndarray:
    """A plain picture uint8 [height,width,3] that the darkness network finds normal."""
    return np.full((height, width, 3), level, np.uint8)


def png(picture: np.ndarray) -> bytes:
    """The picture as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def write_bundle(
    models_dir: Path,
    name: str = "probe",
    version: int = 1,
    *,
    working_size: float = 224,
    global_map: bool = False,
    review: float = 0.3,
    reject: float = 0.5,
    min_flaw_px: float = 1.0,
    gain: float = 1.0,
    gate: QualityGate = OPEN_GATE,
    roi: np.ndarray | None = None,
    layout: Layout | None = None,
    int8_gain: float | None = None,
    golden_shift: float = 0.0,
    notes: Sequence[str] = (),
) -> Path:
    """A complete, valid bundle around the darkness network; returns its folder.

    `int8_gain` adds an "int8" form with another gain; `golden_shift` falsifies the golden scores by that much; `notes`:
    what training noticed.
    """
    recipe = PrepareRecipe(value=working_size)
    networks = {"model.onnx": darkness_network(global_map, gain)}
    if int8_gain is not None:
        networks["model.int8.onnx"] = darkness_network(global_map, int8_gain)
    picture = grey_picture()
    picture[100:120, 100:120] = 40
    plan = plan_tiles(224, 224, recipe, global_map=global_map)
    forms, scores = {}, {}
    for file, data in networks.items():
        form_name = "float32" if file == "model.onnx" else "int8"
        session = open_session(data, form=form_name, provider="cpu")
        scores[form_name] = picture_map(session.run(prepare(picture, plan)), plan, min_flaw_px, roi, layout).score
        scores[form_name] += golden_shift
        rule = ThresholdRule(method="conformal", false_reject_rate=0.1, parts=9)
        forms[form_name] = Form(
            file=file,
            review_threshold=review,
            reject_threshold=reject,
            review_rule=rule,
            reject_rule=rule,
            calibration_scores=tuple(0.05 + 0.02 * k for k in range(9)),
            parity=Parity(pictures=1, batches=(1,), max_relative_score_error=0, max_abs_map_error=0),
            network_ms_per_window=5.0,
            machine=machine_name(),
        )
    files = {
        **networks,
        "golden/0.png": png(picture),
        "reference.png": png(grey_picture()),
        "report.html": b"<html></html>",
    }
    if roi is not None:
        files["roi.png"] = png(np.repeat(roi.astype(np.uint8)[:, :, None] * 255, 3, axis=2))
    if layout is not None:
        files[LAYOUT_FILE] = write_layout(layout)
    manifest = Manifest(
        name=name,
        version=version,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        network=Network(size="small", global_map=global_map),
        prepare=recipe,
        quantiles=Quantiles(structural=MapQuantiles(q_a=0, q_b=0.1)),
        min_flaw_px=min_flaw_px,
        quality_gate=gate,
        forms=forms,
        golden=(Golden(file="golden/0.png", scores=scores),),
        golden_tolerance=0.01,
        teacher=Teacher(name="none", sha256="0" * 64),
        roi=roi is not None,
        layout=layout is not None,
        data={"notes": list(notes)},
        files=digest(files),
    )
    folder = models_dir / name / str(version)
    for file, data in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data)
    (folder / "manifest.json").write_text(manifest_text(manifest))
    return folder
