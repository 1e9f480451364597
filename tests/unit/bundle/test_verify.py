from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.bundle.manifest import Manifest
from service.bundle.verify import manifest_text, verify
from service.errors import BundleRefused
from tests.networks import darkness_network, grey_picture, png, write_bundle
from tests.unit.bundle.editing import edit_manifest, edit_network, replace_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_bundle(tmp_path, "probe", 1, int8_gain=1.0, roi=np.ones((4, 4), bool))


def refused(folder: Path) -> str:
    with pytest.raises(BundleRefused) as refusal:
        verify(folder)
    return refusal.value.detail


def test_a_whole_bundle_is_read_byte_for_byte(folder: Path) -> None:
    verified = verify(folder)
    assert verified.manifest.name == "probe"
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(verified.files) == there - {"manifest.json"}
    assert all((folder / name).read_bytes() == data for name, data in verified.files.items())


def test_the_manifest_s_text_is_read_back_the_same(folder: Path) -> None:
    manifest = verify(folder).manifest
    assert Manifest.model_validate_json(manifest_text(manifest)) == manifest


def test_every_fault_is_listed(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"something else")
    (folder / "reference.png").unlink()
    (folder / "notes.txt").write_text("hello")
    detail = refused(folder)
    assert "model.onnx is not the file that was written (sha256 differs)" in detail
    assert "reference.png is missing" in detail
    assert "notes.txt is not in the manifest" in detail


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(schema_version=2), "schema_version"),
        (lambda d: d.update(surprise=1), "surprise"),
        (lambda d: d.update(name="../evil"), "name"),
        (lambda d: d.update(version=0), "version"),
        (lambda d: d["geometry"].update(stride=8), "geometry.stride"),
        (lambda d: d["forms"].pop("float32"), "float32 form is missing"),
        (lambda d: d["forms"]["float32"].update(review_threshold=9), "review_threshold is above"),
        (lambda d: d["forms"]["float32"].update(reject_threshold=float("nan")), "finite"),
        (lambda d: d["forms"]["float32"].update(calibration_scores=[]), "not empty"),
        (lambda d: d["forms"]["float32"].update(calibration_scores=[2, 1]), "ascending"),
        (lambda d: d["forms"]["float32"].update(file="other.onnx"), "must be model.onnx"),
        (lambda d: d["files"].pop("model.onnx"), "model.onnx has no sha256"),
        (lambda d: d["golden"][0].update(file="golden/9.png"), "golden/9.png is promised"),
    ],
)
def test_a_manifest_that_breaks_its_schema_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    edit_manifest(folder, change)
    assert message in refused(folder)


def test_a_missing_or_unreadable_manifest_is_refused(tmp_path: Path, folder: Path) -> None:
    assert "manifest.json" in refused(tmp_path / "nowhere")
    (folder / "manifest.json").write_bytes(b"\xff{")
    assert "manifest.json" in refused(folder)


def test_a_promised_roi_must_be_there(folder: Path) -> None:
    edit_manifest(folder, lambda document: document["files"].pop("roi.png"))
    (folder / "roi.png").unlink()
    assert "roi.png is promised" in refused(folder)


@pytest.mark.parametrize("name", ["../outside.txt", "golden/../../outside.txt", "/etc/hostname"])
def test_no_file_outside_the_folder_is_read(folder: Path, name: str) -> None:
    outside = folder.parent / "outside.txt"
    outside.write_text("secret")
    edit_manifest(folder, lambda document: document["files"].update({name: hashlib.sha256(b"secret").hexdigest()}))
    assert "not a plain file of the folder" in refused(folder)


def test_links_are_refused(folder: Path) -> None:
    original = folder.parent / "reference.png"
    (folder / "reference.png").rename(original)
    (folder / "reference.png").symlink_to(original)
    assert "reference.png is a link" in refused(folder)


def test_a_linked_folder_is_refused(folder: Path) -> None:
    (folder / "golden").rename(folder.parent / "golden")
    (folder / "golden").symlink_to(folder.parent / "golden")
    detail = refused(folder)
    assert "golden is a link" in detail
    assert "golden/0.png is missing or not a plain file" in detail


def test_an_unlisted_link_to_a_folder_is_refused(folder: Path) -> None:
    (folder / "more").symlink_to("/tmp")
    assert "more is a link" in refused(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    (folder / "reference.png").unlink()
    os.mkfifo(folder / "reference.png")
    assert "reference.png is missing or not a plain file" in refused(folder)


def test_pictures_that_are_none_are_refused(folder: Path) -> None:
    replace_file(folder, "golden/0.png", b"not a picture")
    replace_file(folder, "roi.png", b"GIF89a")
    detail = refused(folder)
    assert "golden/0.png: not a picture" in detail
    assert "roi.png: not a picture" in detail


def test_reference_pictures_are_checked_as_all_others(folder: Path) -> None:
    replace_file(folder, "reference.png", b"not a picture")
    edit_manifest(folder, lambda document: document.update(references=["references/none.png"]))
    detail = refused(folder)
    assert "reference.png: not a picture" in detail
    assert "references/none.png is promised and not listed in files" in detail


def test_every_form_s_network_is_checked(folder: Path) -> None:
    replace_file(folder, "model.int8.onnx", b"not a network")
    assert "model.int8.onnx: not an ONNX file" in refused(folder)


def external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def external_in_memory(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.external_data.add(key="location", value="*/_ORT_MEM_ADDR_/*")


def external_in_a_branch(model: onnx.ModelProto) -> None:
    hidden = numpy_helper.from_array(np.zeros(1, np.float32), "hidden")
    hidden.data_location = TensorProto.EXTERNAL
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1])
    branch = helper.make_graph([helper.make_node("Identity", ["hidden"], ["out"])], "branch", [], [output], [hidden])
    model.graph.node.append(helper.make_node("If", ["flag"], ["unused"], then_branch=branch, else_branch=branch))


def external_in_an_attribute(model: onnx.ModelProto) -> None:
    hidden = numpy_helper.from_array(np.zeros(1, np.float32), "hidden")
    hidden.data_location = TensorProto.EXTERNAL
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=hidden))


@pytest.mark.parametrize("change", [external, external_in_memory, external_in_a_branch, external_in_an_attribute])
def test_tensors_outside_the_file_are_refused(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    edit_network(folder, change)
    assert "model.onnx: has tensors outside the file" in refused(folder)


def test_operators_of_other_domains_are_refused(folder: Path) -> None:
    def add(model: onnx.ModelProto) -> None:
        model.graph.node.append(helper.make_node("Shell", ["image"], ["unused"], domain="com.evil"))

    edit_network(folder, add)
    assert "other domains than ONNX's own: com.evil" in refused(folder)


def test_a_domain_that_is_announced_and_not_used_is_harmless(folder: Path) -> None:
    """ONNX Runtime's quantiser announces a dozen."""
    edit_network(folder, lambda model: model.opset_import.append(helper.make_opsetid("com.microsoft", 1)))
    verify(folder)


def test_functions_are_refused(folder: Path) -> None:
    def add(model: onnx.ModelProto) -> None:
        node = helper.make_node("Shell", ["x"], ["y"], domain="com.evil")
        model.functions.append(helper.make_function("", "Hidden", ["x"], ["y"], [node], list(model.opset_import)))

    edit_network(folder, add)
    assert "has functions" in refused(folder)


@pytest.mark.parametrize(("opset", "fine"), [(12, False), (18, True), (99, False)])
def test_the_opset_must_be_one_that_is_supported(folder: Path, opset: int, fine: bool) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = opset

    edit_network(folder, change)
    if fine:
        verify(folder)
    else:
        assert f"has opset [{opset}]" in refused(folder)


def fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def other_window(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 512


def other_input_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def other_input_name(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "picture"


def no_features(model: onnx.ModelProto) -> None:
    del model.graph.output[-1]


def fixed_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1


def other_map(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[2].dim_value = 64


def float_features(model: onnx.ModelProto) -> None:
    model.graph.output[-1].type.tensor_type.elem_type = TensorProto.FLOAT


@pytest.mark.parametrize("change", [fixed_batch, other_window, other_input_type, other_input_name])
def test_the_input_must_be_windows_in_any_number(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    edit_network(folder, change)
    assert "its input must be image uint8 [N,256,256,3]" in refused(folder)


@pytest.mark.parametrize("change", [no_features, fixed_output, other_map, float_features])
def test_the_outputs_must_be_the_contract_s(folder: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    edit_network(folder, change)
    assert "its outputs must be structural_map, features" in refused(folder)


def test_the_logical_map_is_there_exactly_when_promised(tmp_path: Path) -> None:
    verify(write_bundle(tmp_path, "with", 1, global_map=True))
    without = write_bundle(tmp_path, "without", 1)
    edit_manifest(without, lambda document: document["network"].update(global_map=True))
    assert "logical_map" in refused(without)
    surplus = write_bundle(tmp_path, "surplus", 1)
    replace_file(surplus, "model.onnx", darkness_network(global_map=True))
    assert "its outputs must be" in refused(surplus)


def test_the_pictures_of_a_bundle_are_not_judged_here(folder: Path) -> None:
    """Verification reads; whether the scores hold is for loading to find out."""
    replace_file(folder, "golden/0.png", png(grey_picture(level=3)))
    verify(folder)
