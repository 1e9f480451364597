"""What makes the network quicker on a CPU: graphs, int8 as quantised before and now, ONNX Runtime and OpenVINO, in turns.

    python -m benchmarks.cpu_network --json benchmarks/results/cpu_network.json
    python -m benchmarks.cpu_network --bundle models/polka-dot/1 --parts DIR --json benchmarks/results/cpu_forms.json

The first form times PDN-small without autoencoder and with random weights, on which time does not depend: wall clock, and
processor time of all threads, which another load on the machine hardly changes. The second one judges the pictures of
DIR/test (MVTec AD's layout) with every form of a bundle: image AUROC, and how far scores are from the float32 form's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.machine import describe, tell
from service.bundle.load import EngineOptions, load_bundle
from service.bundle.verify import verify
from service.engine.session import OPENVINO_FORMS, has_openvino, open_session
from service.image.decode import decode
from service.training import quantize as quantizing
from service.training.export import Served, module_to_onnx, to_onnx
from service.training.metrics import auroc
from service.training.network import Detector, Pdn

Run = Callable[[NDArray[np.uint8]], object]


class SharedFirst(nn.Module):
    """The served network with both first layers as one convolution, and split after it."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.served = served
        self.first = joined(served.teacher[0], served.student[0], 1)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """uint8 [N,256,256,3] -> structural map, features."""
        pixels = image.permute(0, 3, 1, 2).float() * (1 / 128)
        one, other = functional.avg_pool2d(functional.relu(self.first(pixels)), 2).chunk(2, dim=1)
        target, hidden = self.served.target(self.served.teacher[3:](one)), self.served.student[3:](other)
        features = (target * self.served.std + self.served.mean).half()
        return self.served._scaled(target + self.served.imitation(hidden), 0), features


class Grouped(nn.Module):
    """Teacher and student as grouped convolutions, and their difference as one last convolution over both."""

    def __init__(self, served: Served) -> None:
        super().__init__()
        self.served = served
        teacher, student = served.teacher, served.student
        self.layers = nn.ModuleList(
            joined(teacher[index], student[index], 1 if index == 0 else 2) for index in (0, 3, 6)
        )
        last, other = served.target, served.imitation
        self.last = nn.Conv2d(last.in_channels + other.in_channels, last.out_channels, last.kernel_size)
        with torch.no_grad():
            self.last.weight.copy_(torch.cat([last.weight, other.weight], dim=1))
            self.last.bias.copy_(last.bias + other.bias)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """uint8 [N,256,256,3] -> structural map, features."""
        x = image.permute(0, 3, 1, 2).float() * (1 / 128)
        for index, layer in enumerate(self.layers):
            x = functional.relu(layer(x))
            x = functional.avg_pool2d(x, 2) if index < 2 else x
        target = self.served.target(x.chunk(2, dim=1)[0])
        features = (target * self.served.std + self.served.mean).half()
        return self.served._scaled(self.last(x), 0), features


def joined(one: nn.Conv2d, other: nn.Conv2d, groups: int) -> nn.Conv2d:
    """Two convolutions as one: of the same input, or of two groups of channels."""
    layer = nn.Conv2d(one.in_channels * groups, 2 * one.out_channels, one.kernel_size, groups=groups)
    with torch.no_grad():
        layer.weight.copy_(torch.cat([one.weight, other.weight]))
        layer.bias.copy_(torch.cat([one.bias, other.bias]))
    return layer


def exported(network: nn.Module) -> bytes:
    """A network of two outputs as ONNX."""
    return module_to_onnx(network, ["structural_map", "features"])


def as_quantised_before(model: bytes, windows: list[NDArray[np.uint8]]) -> bytes:
    """int8 with ReLU left between a quantised convolution and a quantised pooling, as up to version 0.1's first models."""
    right = quantizing.quantize_static

    def before(*arguments: Any, **options: Any) -> None:
        right(*arguments, **{**options, "op_types_to_quantize": ["Conv", "AveragePool"]})

    quantizing.quantize_static = before
    try:
        return quantizing.quantize(model, windows)
    finally:
        quantizing.quantize_static = right


def cases() -> dict[str, Run]:
    """What is compared, by name."""
    torch.manual_seed(0)
    detector = Detector(Pdn("small"), Pdn("small"), None).eval()
    served = Served(detector)
    layers, now = exported(detector), to_onnx(detector)
    windows = list(np.random.default_rng(1).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8))
    before8, now8 = as_quantised_before(layers, windows), quantizing.quantize(now, windows)
    networks = {
        "float32, published layers": (layers, "float32"),
        "float32, folded": (now, "float32"),
        "float32, folded, one first layer": (exported(SharedFirst(served)), "float32"),
        "float32, folded, grouped": (exported(Grouped(served)), "float32"),
        "int8, as before": (before8, "int8"),
        "int8": (now8, "int8"),
    }
    found: dict[str, Run] = {}
    for name, (model, form) in networks.items():
        found[f"onnxruntime {name}"] = open_session(model, form=form, provider="cpu", ladder=(1, 2, 4)).run
    if has_openvino():
        for name, model, form in (
            ("float32", now, "float32"),
            ("bf16, published layers", layers, "bf16"),
            ("bf16", now, "bf16"),
            ("int8, as before", before8, "int8-openvino"),
            ("int8", now8, "int8-openvino"),
        ):
            session = open_session(model, form=form, provider="openvino", ladder=(1, 2, 4))
            found[f"openvino {name}"] = session.run
            if name in ("bf16", "int8"):
                found[f"openvino {name}, with features"] = lambda x, run=session.run: run(x, "maps and features")
    return found


def timed(rounds: int, batches: Sequence[int]) -> list[dict[str, object]]:
    """Milliseconds a window of every case at those batches: medians of `rounds` turns."""
    found = cases()
    rows = []
    for batch in batches:
        windows = np.random.default_rng(0).integers(0, 256, (batch, 256, 256, 3), dtype=np.uint8)
        for run in found.values():
            run(windows)
        wall: dict[str, list[float]] = {name: [] for name in found}
        cpu: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(rounds):
            for name, run in found.items():
                started, used = time.perf_counter(), time.process_time()
                run(windows)
                wall[name].append(1000 * (time.perf_counter() - started) / batch)
                cpu[name].append(1000 * (time.process_time() - used) / batch)
        base = statistics.median(cpu["onnxruntime float32, published layers"])
        for name in found:
            mine = statistics.median(cpu[name])
            rows.append(
                {
                    "case": name,
                    "batch": batch,
                    "cpu_ms_per_window": round(mine, 1),
                    "wall_ms_per_window": round(statistics.median(wall[name]), 1),
                    "times_float32_by_cpu": round(base / mine, 2),
                }
            )
    return rows


def judged(folder: Path, parts: Path, most: int) -> list[dict[str, object]]:
    """Every form of a bundle on the pictures of parts/test, beside the float32 form; at most so many of a kind."""
    kinds = sorted(path for path in (parts / "test").iterdir() if path.is_dir())
    pictures = [(kind.name != "good", path) for kind in kinds for path in sorted(kind.glob("*.png"))[:most]]
    flawed = np.array([flaw for flaw, _ in pictures])
    names = sorted(verify(folder).manifest.forms, key=lambda name: name != "float32")
    rows: list[dict[str, object]] = []
    base = np.zeros(len(pictures))
    for name in names:
        if name == "fp16" or (name in OPENVINO_FORMS and not has_openvino()):
            continue
        provider = "openvino" if name in OPENVINO_FORMS else "cpu"
        bundle = load_bundle(folder, EngineOptions(name, provider))  # type: ignore[arg-type]
        scores = np.array([bundle.anomaly_map(decode(path.read_bytes(), 10**9)).score for _, path in pictures])
        base = scores if name == "float32" else base
        off = np.abs(scores - base)
        rows.append(
            {
                "form": bundle.form_name,
                "provider": bundle.session.provider,
                "pictures": len(pictures),
                "flawed": int(flawed.sum()),
                "image_auroc": round(auroc(scores, flawed), 5),
                "score_off_median": round(float(np.median(off)), 5),
                "score_off_most_relative": round(float((off / np.maximum(np.abs(base), 0.1)).max()), 4),
            }
        )
    return rows


def main() -> None:
    """Measure, and print or write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--parts", type=Path, help="set in MVTec AD's layout, as `flawscribe samples` writes it")
    parser.add_argument("--most", type=int, default=50, help="pictures of a kind")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4], choices=[1, 2, 4])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = (
        timed(options.rounds, options.batches)
        if options.bundle is None
        else judged(options.bundle, options.parts, options.most)
    )
    tell({"machine": describe(), "rows": rows}, options.json)


if __name__ == "__main__":
    main()
