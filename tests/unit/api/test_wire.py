"""Whatever a client sends, reading it gives pictures or a refusal that has a status, never an accident."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from service.api.wire import IMAGE_TYPES, BodyLimits, Incoming, read_pictures
from service.errors import BadRequest, TooLarge, UnreadableImage, UnsupportedMediaType
from service.inspector import Picture

LIMITS = BodyLimits(max_bytes=4000, max_images=3, max_pixels=100, timeout_s=20)


def read(chunks: Iterable[bytes], content_type: str, limits: BodyLimits = LIMITS, **headers: str) -> Incoming:
    """Read a request of these body chunks."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    rest = iter(messages)

    async def receive() -> Message:
        return next(rest)

    fields = {"content-type": content_type} | {name.replace("_", "-"): value for name, value in headers.items()}
    raw = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
    scope = {"type": "http", "method": "POST", "path": "/detect", "query_string": b"", "headers": raw}
    return asyncio.run(read_pictures(Request(scope, receive), limits))


def part(name: str, data: bytes, filename: str | None = None) -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n"


def pictures(incoming: Incoming) -> list[Picture]:
    assert all(isinstance(picture, Picture) for picture in incoming.pictures)
    return [picture for picture in incoming.pictures if isinstance(picture, Picture)]


MULTIPART = "multipart/form-data; boundary=b"


@given(data=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=3), cut=st.integers(1, 64))
def test_multipart_gives_back_every_byte_however_it_is_chunked(data: list[bytes], cut: int) -> None:
    body = b"".join(part("image", blob, "a.png") for blob in data) + part("serial", b"S1") + b"--b--\r\n"
    found = pictures(read([body[at : at + cut] for at in range(0, len(body), cut)], MULTIPART))
    assert [picture.data for picture in found] == data
    assert all(picture.metadata == {"serial": "S1"} for picture in found)


@given(
    body=st.one_of(
        st.binary(max_size=400),
        st.text(max_size=200).map(lambda text: json.dumps({"images": [{"data": text}]}).encode()),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(max_size=8),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        ).map(lambda value: json.dumps({"images": value, "metadata": value}).encode()),
        st.binary(max_size=100).map(lambda data: part("image", data, "x") + b"--b--"),
    ),
    content_type=st.sampled_from(
        [MULTIPART, "multipart/form-data", "application/json", "application/octet-stream", "image/png", "text/html", ""]
    ),
    shape=st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=12),
)
def test_anything_is_read_or_refused(body: bytes, content_type: str, shape: str) -> None:
    try:
        incoming = read([body], content_type, x_image_shape=shape)
    except (BadRequest, TooLarge, UnsupportedMediaType):
        return
    for picture in incoming.pictures:
        assert isinstance(picture, Picture | UnreadableImage)


@given(height=st.integers(1, 9), width=st.integers(1, 9), data=st.data())
def test_raw_rgb_is_taken_row_by_row(height: int, width: int, data: st.DataObject) -> None:
    body = data.draw(st.binary(min_size=height * width * 3, max_size=height * width * 3))
    (picture,) = pictures(read([body], "application/octet-stream", x_image_shape=f"{height},{width},3"))
    assert picture.raw is not None
    assert picture.raw.shape == (height, width, 3)
    assert np.array_equal(picture.raw.reshape(-1), np.frombuffer(body, np.uint8))


def test_json_pictures_may_be_data_urls_and_fail_one_by_one() -> None:
    text = base64.b64encode(b"picture").decode()
    entries: list[Any] = [{"data": f"data:image/png;base64,{text}"}, {"data": "!"}, {"url": "http://x"}]
    first, second, third = read([json.dumps({"images": entries}).encode()], "application/json").pictures
    assert isinstance(first, Picture)
    assert first.data == b"picture"
    assert isinstance(second, UnreadableImage)
    assert isinstance(third, UnreadableImage)


@pytest.mark.parametrize("media_type", IMAGE_TYPES)
def test_raw_bodies_carry_metadata_in_headers(media_type: str) -> None:
    (picture,) = pictures(read([b"abc", b"def"], f"{media_type}; q=1", x_meta_lot="L7", x_other="no"))
    assert picture == Picture(b"abcdef", metadata={"lot": "L7"})


@pytest.mark.parametrize("content_type", ["text/plain", "image/svg+xml", "", "multipart/mixed; boundary=b"])
def test_other_media_types_are_refused(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        read([b"x"], content_type)


def test_limits_hold_for_every_form() -> None:
    with pytest.raises(TooLarge, match="4000 bytes"):
        read([bytes(1000)] * 5, "image/png")
    with pytest.raises(TooLarge, match="4000 bytes"):
        read([], "image/png", content_length="4001")
    with pytest.raises(TooLarge, match="4000 bytes"):
        read([part("image", bytes(5000), "a")], MULTIPART)
    with pytest.raises(TooLarge, match="3 pictures"):
        read([part("image", b"x", "a") * 4, b"--b--"], MULTIPART)
    with pytest.raises(TooLarge, match="3 pictures"):
        read([json.dumps({"images": [{"data": ""}] * 4}).encode()], "application/json")
    with pytest.raises(TooLarge, match="pixels"):
        read([bytes(363)], "application/octet-stream", x_image_shape="11,11,3")


@pytest.mark.parametrize(
    "metadata",
    [{"a": "x" * 1001}, {"n" * 101: "x"}, {str(k): k for k in range(65)}, {"a": "\ud800"}, {"a": [1]}, [1], "x"],
)
def test_metadata_is_bounded_and_writable(metadata: Any) -> None:
    body = json.dumps({"images": [{"data": ""}], "metadata": metadata}).encode()
    with pytest.raises(BadRequest):
        read([body], "application/json")


def test_a_body_that_stops_arriving_is_given_up() -> None:
    async def stalled() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"image/png")]}
    limits = BodyLimits(max_bytes=10, max_images=1, max_pixels=1, timeout_s=0.01)
    with pytest.raises(HTTPException) as caught:
        asyncio.run(read_pictures(Request(scope, stalled), limits))
    assert caught.value.status_code == 408
    assert caught.value.headers == {"connection": "close"}
