"""Flawscribe: visual inspection with EfficientAD, served over REST."""

import os

__version__ = "0.1.0"

# ONNX Runtime >= 1.29 reports its sessions (file names, hashes of weights) to its maker over the network and keeps a device id,
# unless it is told not to before it is loaded. Nothing leaves a factory unasked, so this comes before every other import.
os.putenv("ORT_DISABLE_TELEMETRY", "1")
