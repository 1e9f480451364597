"""What machine a result was measured on: the same words as `flawscribe bench` uses."""

from service.bench.machine import describe

__all__ = ["describe"]
