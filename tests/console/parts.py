"""Pictures of parts for the darkness network, and inspections of them."""

from __future__ import annotations

from typing import Any

import httpx

from tests.contract.serving import Service
from tests.networks import grey_picture, png

HOSTILE = "<img src=x onerror=alert(1)>&lt;b&gt;"


def part(at: int | None = 60, shade: int = 30, *, second: bool = False) -> bytes:
    """A picture of 400 x 300 px as PNG: plain, or with a dark square at (`at`, `at`), and a second, paler one at its right."""
    picture = grey_picture(300, 400)
    if at is not None:
        picture[at : at + 40, at : at + 40] = shade
    if second:
        picture[200:240, 300:340] = 60
    return png(picture)


def inspect(
    service: Service, data: bytes, *, path: str = "/classify", store: str = "image", **about: str
) -> dict[str, Any]:
    """Send a picture as a machine would; its result."""
    answer = httpx.post(
        f"{service.url}{path}?store={store}", files={"image": ("part.png", data)}, data=about, timeout=30
    )
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()["results"][0]
    return result


def counted(service: Service) -> float:
    """How many pictures the service has counted as inspected."""
    series = service.state.metrics.images.collect()[0].samples
    return sum(each.value for each in series if each.name.endswith("_total"))


def review(service: Service, inspection_id: str, **said: Any) -> None:
    """Say something of an inspection, as another person would."""
    body = {"verdict": "right", "who": "Kim"} | said
    answer = httpx.post(f"{service.url}/inspections/{inspection_id}/review", json=body, timeout=30)
    assert answer.status_code == 201, answer.text


def seed(service: Service) -> None:
    """Two flawed parts, one of them reviewed, a good one, and one whose texts are hostile."""
    first = inspect(service, part(60), product="cover", lot="L1", serial="A-1")
    review(service, first["id"], label="ink", cause="printer leaks", action="clean it")
    inspect(service, part(61), product="cover", lot="L1", serial="A-2")
    inspect(service, part(None), product="cover", lot="L1", serial="A-3")
    inspect(service, part(120), product=HOSTILE, lot=HOSTILE, serial=HOSTILE, station=HOSTILE, free=HOSTILE)
