"""Flawscribe: visual inspection with EfficientAD, served over REST."""

__version__ = "0.1.0"
