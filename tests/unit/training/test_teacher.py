"""Teacher files: saved, loaded, imported from the published layouts, refused when they are something else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from service.errors import BadRequest
from service.training.energies import Energies
from service.training.network import Pdn, PdnSize
from service.training.teacher import import_teacher, load_teacher, save_teacher


def published_sequential(size: PdnSize) -> nn.Sequential:
    """nelson1425/EfficientAD's teachers: one nn.Sequential, keys 0.weight, 0.bias, 3.weight …"""
    widths = {"small": [(3, 128, 4), (128, 256, 4), (256, 256, 3), (256, 384, 4)]}
    widths["medium"] = [(3, 256, 4), (256, 512, 4), (512, 512, 1), (512, 512, 3), (512, 384, 4), (384, 384, 1)]
    layers: list[nn.Module] = []
    for index, (before, after, kernel) in enumerate(widths[size]):
        layers += [nn.Conv2d(before, after, kernel), nn.ReLU()]
        if index < 2:
            layers.append(nn.AvgPool2d(2, 2))
    return nn.Sequential(*layers[:-1])


class PublishedNamed(nn.Module):
    """anomalib's teachers: keys conv1.weight … conv4.bias (small) or conv6.bias (medium); normalises inside."""

    def __init__(self, size: PdnSize) -> None:
        super().__init__()
        convolutions = [module for module in published_sequential(size) if isinstance(module, nn.Conv2d)]
        for number, module in enumerate(convolutions, start=1):
            setattr(self, f"conv{number}", module)
        self.last = len(convolutions)

    def forward(self, image: Tensor) -> Tensor:
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = (image - mean[:, None, None]) / std[:, None, None]
        for number in range(1, self.last + 1):
            x = getattr(self, f"conv{number}")(x)
            if number < self.last:
                x = functional.relu(x)
            if number < 3:
                x = functional.avg_pool2d(x, 2)
        return x


def halved(network: nn.Module) -> nn.Module:
    """Weights that float16 holds exactly, so that storage adds no difference."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half().float())
    return network.eval()


@pytest.mark.parametrize("size", ["small", "medium"])
def test_import_of_the_sequential_layout_computes_the_same(size: PdnSize, tmp_path: Path) -> None:
    torch.manual_seed(1)
    published = halved(published_sequential(size))
    torch.save(published.state_dict(), tmp_path / "teacher.pth")
    import_teacher(tmp_path / "teacher.pth", "theirs", tmp_path)
    teacher = load_teacher("theirs", tmp_path)
    x = torch.randn(1, 3, 65, 61)
    assert teacher.size == size
    torch.testing.assert_close(teacher.network(x), published(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", ["small", "medium"])
def test_import_of_the_named_layout_computes_the_same_on_normalised_pictures(size: PdnSize, tmp_path: Path) -> None:
    torch.manual_seed(2)
    published = halved(PublishedNamed(size))
    # out of order, as a dict from elsewhere may be
    torch.save(dict(reversed(published.state_dict().items())), tmp_path / "pretrained.pth")
    import_teacher(tmp_path / "pretrained.pth", "theirs", tmp_path)
    image = torch.rand(1, 3, 61, 65)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    ours = load_teacher("theirs", tmp_path).network((image - mean[:, None, None]) / std[:, None, None])
    torch.testing.assert_close(ours, published(image), atol=1e-5, rtol=0)


def test_storage_in_half_precision_costs_little(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = Pdn("small").eval()
    save_teacher(network, "own", tmp_path, {"recipe": "none"})
    x = torch.randn(1, 3, 49, 49)
    difference = (load_teacher("own", tmp_path).network(x) - network(x)).abs().max()
    assert difference < 2e-3 * network(x).abs().max()


def test_loaded_teacher_is_frozen_in_eval_mode_with_its_card(tmp_path: Path) -> None:
    file = save_teacher(Pdn("small"), "own", tmp_path, {"recipe": "none"})
    teacher = load_teacher(str(file), tmp_path / "elsewhere")
    assert not teacher.network.training
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    assert all(parameter.dtype == torch.float32 for parameter in teacher.network.parameters())
    assert (teacher.name, teacher.card["recipe"], teacher.card["sha256"]) == ("own", "none", teacher.sha256)


def test_unknown_name_lists_those_available(tmp_path: Path) -> None:
    save_teacher(Pdn("small"), "first", tmp_path, {})
    save_teacher(Pdn("small"), "second", tmp_path, {})
    with pytest.raises(BadRequest, match=r"no teacher 'third'.*there are: first, second"):
        load_teacher("third", tmp_path)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    file = save_teacher(Pdn("small"), "own", tmp_path, {})
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(BadRequest, match="damaged"):
        load_teacher("own", tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", json.dumps({"size": "huge", "sha256": ""}), json.dumps({"size": "small"})])
def test_card_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    file = save_teacher(Pdn("small"), "own", tmp_path, {})
    file.with_suffix(".json").write_text(text)
    with pytest.raises(BadRequest, match=r"own\.json"):
        load_teacher("own", tmp_path)


class _Runs:
    """Unpickles by calling a function, as a hostile file would."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.proof),)


def test_file_that_pickles_a_module_or_code_is_refused_without_running_it(tmp_path: Path) -> None:
    torch.save(published_sequential("small"), tmp_path / "module.pth")
    with pytest.raises(BadRequest, match="whole module"):
        import_teacher(tmp_path / "module.pth", "x", tmp_path)
    torch.save({"0.weight": _Runs(tmp_path / "proof")}, tmp_path / "hostile.pth")
    with pytest.raises(BadRequest, match="refused"):
        import_teacher(tmp_path / "hostile.pth", "x", tmp_path)
    assert not (tmp_path / "proof").exists()
    assert not list(tmp_path.glob("x.*"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no weights at all", "cannot be read"),
        (b"hello world", "cannot be read"),  # these three have torch raise errors of other kinds
        (b"\x80\x02.", "cannot be read"),
        (b"", "cannot be read"),
        ({"0.weight": torch.zeros(3)}, "fits neither"),
        ([torch.zeros(3)], "no state dict"),
        ({"epoch": 3}, "no state dict"),
        ({0: torch.zeros(3)}, "no state dict"),
    ],
)
def test_other_files_are_refused(content: object, message: str, tmp_path: Path) -> None:
    file = tmp_path / "file.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(BadRequest, match=message):
        import_teacher(file, "x", tmp_path)


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"none\.pth cannot be read: No such file or directory$"):
        import_teacher(tmp_path / "none.pth", "x", tmp_path)


CARDS = sorted((Path(__file__).resolve().parents[3] / "models" / "teachers").glob("*.json"))
RESULTS = Path(__file__).resolve().parents[3] / "benchmarks" / "results"


def test_every_shipped_teacher_has_a_card_and_every_card_a_teacher() -> None:
    weights = sorted(CARDS[0].parent.glob("*.safetensors"))
    assert {card.stem for card in CARDS} == {file.stem for file in weights} >= {"energies", "pdn-small", "pdn-medium"}


@pytest.mark.parametrize("file", CARDS, ids=lambda file: file.stem)
def test_a_shipped_card_tells_data_licences_recipe_steps_and_what_it_is_worth(file: Path) -> None:
    card = json.loads(file.read_text())
    teacher = load_teacher(str(file.with_suffix(".safetensors")))  # refused when the sha256 is another
    assert (card["name"], card["sha256"]) == (teacher.name, teacher.sha256)
    assert card["kind"] == ("energies" if isinstance(teacher.network, Energies) else "pdn")
    assert card["licence"].startswith("Apache-2.0")
    for licence in ("CC0", "MIT", "CC BY 3.0"):  # of the pictures
        assert licence in card["data"]
    assert card["steps"] == sum(run["steps_done"] for run in card["recipe"].get("runs", []))
    assert (card["steps"] > 0) == (card["kind"] == "pdn")
    assert card["recipe"]["method"]
    measured = [
        {name: row[name] for name in card["probe"]["rows"][0]}
        for part in ("validation", "test")
        for row in json.loads((RESULTS / f"teacher_probe_{part}.json").read_text())["rows"]
        if row["teacher"] == file.stem
    ]
    assert len(measured) >= 8

    def place(row: dict[str, object]) -> tuple[str, str]:
        return str(row["part"]), str(row["set"])

    assert sorted(card["probe"]["rows"], key=place) == sorted(measured, key=place)


def test_an_imported_teacher_s_card_has_what_its_importer_says(tmp_path: Path) -> None:
    torch.save(published_sequential("small").state_dict(), tmp_path / "teacher.pth")
    import_teacher(tmp_path / "teacher.pth", "theirs", tmp_path, {"data": "ImageNet", "licence": "non-commercial"})
    card = load_teacher("theirs", tmp_path).card
    assert (card["data"], card["licence"], card["recipe"]) == ("ImageNet", "non-commercial", "imported")
