"""The int8 form: static quantisation (QDQ, per channel), calibrated on the site's training normals."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class _Windows(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, windows: Sequence[NDArray[np.uint8]]) -> None:
        self._rest = iter(windows)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        window = next(self._rest, None)
        return None if window is None else {"image": window[None]}


def quantize(model: bytes, windows: Sequence[NDArray[np.uint8]]) -> bytes:
    """The int8 form of a float32 `model`, its activation ranges taken from `windows` uint8 [256,256,3] each."""
    with tempfile.TemporaryDirectory() as folder:
        source, prepared, target = (Path(folder) / name for name in ("a.onnx", "b.onnx", "c.onnx"))
        source.write_bytes(model)
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            _Windows(windows),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=["Conv", "AveragePool"],
            extra_options={"ActivationSymmetric": False},
        )
        return target.read_bytes()
