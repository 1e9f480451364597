"""Tasks for tests of the LLM: a grey part with dark flaws, and all that is told of it."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from service.captions.composite import build_pictures
from service.captions.prompt import LabelWords, LlmCase, LlmRegion, LlmTask
from service.types import Attributes, Region


def region(x: int, y: int, w: int, h: int) -> Region:
    return Region((x, y, w, h), w * h, w * h / (200 * 300), 2.0, (x + w / 2, y + h / 2), "structural")


def llm_task(regions: int = 1, **changed: Any) -> LlmTask:
    """A task of so many regions on a 300 x 200 picture, with these fields changed."""
    rgb = np.full((200, 300, 3), 150, np.uint8)
    found = [region(20 + 60 * number, 30, 24, 10) for number in range(regions)]
    masks = []
    for item in found:
        x, y, w, h = item.box
        rgb[y : y + h, x : x + w] = 20
        mask = np.zeros(rgb.shape[:2], bool)
        mask[y : y + h, x : x + w] = True
        masks.append(mask)
    task = LlmTask(
        product="polka-dot fabric",
        normal="White dots in rows on blue cloth.",
        taxonomy=(
            LabelWords("thread", "a loose thread on the cloth", ("loom end",), "brush"),
            LabelWords("missing-dot", "a dot is not printed"),
        ),
        score=2.0,
        threshold=0.95,
        margin="2.1 x the threshold",
        regions=tuple(LlmRegion(item, Attributes(location="upper left", size="24 x 10 px")) for item in found),
        pictures=build_pictures(rgb, found, masks, np.full((200, 300, 3), 150, np.uint8)),
        cases=(LlmCase("case-7", "thread", "loom end", "brush it", 0.11),),
    )
    return replace(task, **changed)


def soon(seconds: float = 20.0) -> float:
    """A deadline from now."""
    return time.monotonic() + seconds
