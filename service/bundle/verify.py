"""Does a model folder keep its promises? The bytes checked here are the bytes that ONNX Runtime loads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto
from pydantic import ValidationError

from service.bundle.layout import LAYOUT_FILE, read_layout
from service.bundle.manifest import Manifest
from service.errors import BundleRefused, FlawscribeError
from service.image.decode import decode

_DOMAINS = {"", "ai.onnx"}  # the standard's own operators; the int8 form needs no others
_OPSETS = range(13, 27)
_LARGEST_FILE = 512 * 1024 * 1024  # bytes
MAX_PIXELS = 64_000_000  # of a golden picture or a region of interest


@dataclass(frozen=True, slots=True)
class VerifiedFolder:
    """A bundle's manifest and the verified bytes of all its files, by relative path."""

    folder: Path
    manifest: Manifest
    files: dict[str, bytes]


def verify(folder: Path) -> VerifiedFolder:
    """Read and check the bundle in `folder`. Raises BundleRefused listing every fault found."""
    manifest = read_manifest(folder)
    files: dict[str, bytes] = {}
    faults = list(_file_faults(folder, manifest, files))
    for form in manifest.forms.values():
        if form.file in files:
            faults += [f"{form.file}: {fault}" for fault in network_faults(files[form.file], manifest)]
    faults += _picture_faults(manifest, files)
    if faults:
        raise BundleRefused(f"{folder}: " + "; ".join(faults))
    return VerifiedFolder(folder, manifest, files)


def read_manifest(folder: Path) -> Manifest:
    """The manifest alone. Raises BundleRefused when it is missing or not of the schema."""
    try:
        return Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    except OSError as error:
        raise BundleRefused(f"{folder}: manifest.json cannot be read: {error.strerror}") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:8])
        raise BundleRefused(f"{folder}: manifest.json: {wrong}") from error


def _picture_faults(manifest: Manifest, files: dict[str, bytes]) -> Iterator[str]:
    promised = [golden.file for golden in manifest.golden]
    promised += [*manifest.references, *(name for name in ("reference.png",) if name in manifest.files)]
    promised += [name for name, there in (("roi.png", manifest.roi), (LAYOUT_FILE, manifest.layout)) if there]
    for name in promised:
        if name not in manifest.files:
            yield f"{name} is promised and not listed in files"
        elif name in files:
            try:
                if name == LAYOUT_FILE:
                    read_layout(files[name], 1 + manifest.network.global_map)
                else:
                    decode(files[name], MAX_PIXELS)
            except FlawscribeError as error:
                yield f"{name}: {error.detail}"


def _file_faults(folder: Path, manifest: Manifest, files: dict[str, bytes]) -> Iterator[str]:
    for name, sha256 in manifest.files.items():
        path = folder / name
        inside = not Path(name).is_absolute() and ".." not in Path(name).parts
        if not inside or not path.is_file() or path.resolve() != folder.resolve() / name:
            yield f"{name} is missing or not a plain file of the folder"
        elif path.stat().st_size > _LARGEST_FILE:
            yield f"{name} is larger than {_LARGEST_FILE} bytes"
        else:
            files[name] = path.read_bytes()
            if hashlib.sha256(files[name]).hexdigest() != sha256:
                yield f"{name} is not the file that was written (sha256 differs)"
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            yield f"{name} is a link"
        elif not path.is_dir() and name not in manifest.files and name != "manifest.json":
            yield f"{name} is not in the manifest"


def network_faults(data: bytes, manifest: Manifest) -> Iterator[str]:
    """What keeps an ONNX file from being the network that the manifest describes."""
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf raises its own kinds
        yield f"not an ONNX file ({error})"
        return
    if any(_is_external(tensor) for tensor in _tensors(model)):
        yield "has tensors outside the file"
    if unknown := {node.domain for node in _nodes(model)} - _DOMAINS:
        yield f"has operators of other domains than ONNX's own: {', '.join(sorted(unknown))}"
    if model.functions or model.training_info:
        yield "has functions or training graphs of its own"
    versions = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    if not versions or versions[0] not in _OPSETS:
        yield f"has opset {versions}, supported are {_OPSETS.start} to {_OPSETS.stop - 1}"
    wanted: dict[str, tuple[int, list[int | None]]] = {"structural_map": (TensorProto.FLOAT, [None, 56, 56])}
    if manifest.network.global_map:
        wanted["logical_map"] = (TensorProto.FLOAT, [None, 56, 56])
    wanted["features"] = (TensorProto.FLOAT16, [None, manifest.network.channels, 56, 56])
    if _described(model.graph.input) != {"image": (TensorProto.UINT8, [None, 256, 256, 3])}:
        yield f"its input must be image uint8 [N,256,256,3], not {_described(model.graph.input)}"
    if _described(model.graph.output) != wanted:
        yield f"its outputs must be {', '.join(wanted)} with N free, not {_described(model.graph.output)}"


def _described(values: Any) -> dict[str, tuple[int, list[int | None]]]:
    return {
        value.name: (
            value.type.tensor_type.elem_type,
            [side.dim_value or None for side in value.type.tensor_type.shape.dim],
        )
        for value in values
    }


def _graphs(model: Any) -> Iterator[Any]:
    """The model's graph and those inside its nodes (branches and loops)."""
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)


def _nodes(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from graph.node


def _tensors(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else []) + list(attribute.tensors)
            for sparse in ([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []) + list(
                attribute.sparse_tensors
            ):
                yield from (sparse.values, sparse.indices)


def _is_external(tensor: Any) -> bool:
    return bool(tensor.data_location == TensorProto.EXTERNAL or tensor.external_data)


def digest(files: dict[str, bytes]) -> dict[str, str]:
    """sha256 of each file, for the manifest."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())}


def manifest_text(manifest: Manifest) -> str:
    """manifest.json as written: indented, long lists of numbers on one line each."""
    return json.dumps(json.loads(manifest.model_dump_json()), indent=1) + "\n"
