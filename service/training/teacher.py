"""Teachers in models/teachers/: <name>.safetensors (float16) beside its card <name>.json; loading, saving, importing."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from service.errors import BadRequest
from service.training.energies import Energies
from service.training.network import PDN_SIZES, Pdn, PdnSize, TeacherNetwork

DEFAULT_DIRECTORY = Path("models/teachers")
DEFAULT = "pdn-small"


@dataclass(frozen=True, slots=True)
class Teacher:
    """A teacher ready to use: `network` in eval mode, float32, without gradients; `sha256` is of its weights file."""

    name: str
    size: PdnSize
    network: TeacherNetwork
    sha256: str
    card: dict[str, Any]


def load_teacher(name_or_path: str, directory: Path = DEFAULT_DIRECTORY) -> Teacher:
    """The teacher of that name in `directory`, or of that weights file (`*.safetensors`, its card beside it).

    Raises BadRequest when there is none, or its file is not what its card says.
    """
    weights_file = directory / f"{name_or_path}.safetensors"
    if name_or_path.endswith(".safetensors"):
        weights_file = Path(name_or_path)
    card_file = weights_file.with_suffix(".json")
    if not (weights_file.is_file() and card_file.is_file()):
        there = sorted(path.stem for path in weights_file.parent.glob("*.safetensors"))
        raise BadRequest(
            f"no teacher {weights_file.stem!r} in {weights_file.parent}; there are: {', '.join(there) or 'none'}. "
            "`flawscribe teacher import FILE` takes published weights, `flawscribe teacher pretrain` trains one"
        )
    card, data = _card(card_file), weights_file.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 != card["sha256"]:
        raise BadRequest(f"{weights_file} is damaged: its sha256 is {sha256}, its card says {card['sha256']}")
    network: TeacherNetwork = Energies(card["size"]) if card.get("kind") == "energies" else Pdn(card["size"])
    network.load_state_dict({key: value.float() for key, value in load(data).items()})
    return Teacher(weights_file.stem, card["size"], network.eval().requires_grad_(False), sha256, card)


def _card(file: Path) -> dict[str, Any]:
    try:
        card = json.loads(file.read_text())
    except ValueError as error:
        raise BadRequest(f"{file} is not JSON: {error}") from error
    if not isinstance(card, dict) or card.get("size") not in PDN_SIZES or "sha256" not in card:
        raise BadRequest(f"{file} is no teacher's card: it must name size ({' or '.join(PDN_SIZES)}) and sha256")
    return card


def save_teacher(network: TeacherNetwork, name: str, directory: Path, card: dict[str, Any]) -> Path:
    """Write weights (float16) and card; returns the weights file. `card` gains size, sha256, layout and library version."""
    directory.mkdir(parents=True, exist_ok=True)
    data = save({key: value.detach().half().contiguous().cpu() for key, value in network.state_dict().items()})
    weights_file = directory / f"{name}.safetensors"
    weights_file.write_bytes(data)
    full = {
        "name": name,
        "kind": "energies" if isinstance(network, Energies) else "pdn",
        "size": network.size,
        "sha256": hashlib.sha256(data).hexdigest(),
        "layout": "layers.<index>.weight|bias of the network's sequential layers, float16",
        "input": "RGB / 255, normalised by ImageNet mean and standard deviation",
        "libraries": {library: version(library) for library in ("torch", "safetensors", "numpy")},
        **card,
    }
    (directory / f"{name}.json").write_text(json.dumps(full, indent=2) + "\n")
    return weights_file


def import_teacher(
    file: Path, name: str, directory: Path = DEFAULT_DIRECTORY, card: Mapping[str, Any] | None = None
) -> Path:
    """Take published weights: nelson1425/EfficientAD's `teacher_*.pth` or anomalib's `pretrained_teacher_*.pth`. `card` says
    on which data they were trained, and their licence.

    Only plain tensors are loaded (weights_only). Raises BadRequest when the file cannot be read or is none of those layouts.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BadRequest(f"{file} cannot be read: {error.strerror}") from error
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises anything on what it did not write
        raise BadRequest(
            f"{file} cannot be read as plain tensors: it is damaged, no file of PyTorch's, or pickles a whole module, "
            "which is refused, since loading it would run code: save its state_dict() instead"
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise BadRequest(f"{file} holds no state dict of tensors")
    for size in PDN_SIZES:
        network = Pdn(size)
        renamed = _renamed(state, network)
        if renamed is not None:
            network.load_state_dict(renamed)
            source = {"recipe": "imported", "source_file": file.name, "source_sha256": hashlib.sha256(data).hexdigest()}
            return save_teacher(network, name, directory, {**source, **(card or {})})
    raise BadRequest(f"{file} fits neither PDN-small nor PDN-medium: its keys are {', '.join(list(state)[:6])} …")


def _renamed(state: dict[str, Tensor], network: Pdn) -> dict[str, Tensor] | None:
    """The state under our names, matched by the order of the layers and by shape; None when it does not fit."""
    ours = network.state_dict()
    if len(ours) != len(state):
        return None
    renamed = dict(zip(ours, (state[key] for key in sorted(state, key=_layer_order)), strict=True))
    return renamed if all(ours[key].shape == value.shape for key, value in renamed.items()) else None


def _layer_order(key: str) -> tuple[int, int]:
    """Sorts `0.weight`, `2.bias` … and `conv1.weight`, `conv2.bias` … by layer, weights before biases."""
    digits = "".join(character for character in key.rsplit(".", 1)[0] if character.isdigit())
    return int(digits or 0), 0 if key.endswith("weight") else 1
