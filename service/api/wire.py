"""Request body -> pictures and metadata. Every input form of POST /detect, read once, in memory, bounded in size and time."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import math
import re
import sys
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from service.errors import (
    BadRequest,
    FlawscribeError,
    InvalidParameter,
    TooLarge,
    UnreadableImage,
    UnsupportedMediaType,
)
from service.inspector import Picture
from service.records.report.scope import moment_of

Form = TypeVar("Form", bound=BaseModel)

IMAGE_TYPES = ("image/jpeg", "image/png", "image/bmp", "image/tiff", "image/webp")
_ALL_TYPES = ("multipart/form-data", "application/json", "application/octet-stream", *IMAGE_TYPES)
_META_HEADER = "x-meta-"
_IDENTIFYING = ("serial", "lot", "station", "view", "product")  # asked for in paths and queries later
_LONGEST_CONTEXT = 8000  # characters
_LONGEST_META, _LONGEST_META_NAME, _MOST_META = 1000, 100, 64  # characters of a value and a name; entries


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What a body may hold."""

    max_bytes: int
    max_images: int
    max_pixels: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Incoming:
    """The pictures of a request in order; one that could not be taken apart is its error. `context`: free text about them."""

    pictures: tuple[Picture | FlawscribeError, ...]
    context: str = ""


class _PicturesParser(MultiPartParser):
    spool_max_size = sys.maxsize  # Starlette writes uploads over 1 MB to disk; ours are bounded and judged at once
    _whole = False  # whether the last boundary came

    def on_headers_finished(self) -> None:
        """A part `image` is a picture, also from clients that give it no file name (.NET, curl's `-F image=<`)."""
        _, options = parse_options_header(self._current_part.content_disposition)
        if options.get(b"name") == b"image" and b"filename" not in options:
            self._current_part.content_disposition = b'form-data; name="image"; filename=""'
        super().on_headers_finished()

    def on_end(self) -> None:
        """The last boundary."""
        self._whole = True

    async def parse(self) -> FormData:
        """The form. Raises MultiPartException for one that was cut short: a part would pass for one that was never sent."""
        form = await super().parse()
        if not self._whole:
            for file in self._files_to_close_on_error:
                file.close()
            raise MultiPartException("it ends before its last boundary")
        return form


async def read_pictures(
    request: Request, limits: BodyLimits, *, with_context: bool = False, query: Collection[str] = ()
) -> Incoming:
    """Read the body; `with_context`: a field `context` beside the pictures is free text. `query`: the operation's query parameters,
    which are refused as form fields: as metadata they would change nothing.

    A picture that cannot be taken apart is an entry among the others. Raises UnsupportedMediaType, TooLarge, BadRequest,
    InvalidParameter, HTTPException 408 when the body does not arrive in time.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if (coding := request.headers.get("content-encoding", "").strip().lower()) not in ("", "identity"):
        raise UnsupportedMediaType(f"content encoding {coding}; send the body as it is")
    if media_type not in _ALL_TYPES:
        raise UnsupportedMediaType(f"content type {media_type or '(none)'}; accepted are: {', '.join(_ALL_TYPES)}")
    if media_type != "application/octet-stream" and "x-image-shape" in request.headers:
        raise BadRequest(f"X-Image-Shape is of raw pixels, application/octet-stream, and not of {media_type}")
    pictures: Sequence[Picture | FlawscribeError]
    context = ""
    if media_type == "multipart/form-data":
        async with _in_time(limits):
            blobs, fields = await _multipart(request, limits)
        context = _taken_context(fields) if with_context else ""
        if misplaced := sorted(set(fields) & set(query)):
            name = misplaced[0]
            raise InvalidParameter(f"pass {name} as a query parameter, ?{name}=…, and not as a form field")
        metadata = _metadata(request, fields)
        pictures = [Picture(blob, metadata=metadata) for blob in blobs]
    else:
        body = await read_body(request, limits)
        if media_type == "application/json":  # tens of megabytes of base64 would hold up the event loop
            document = await asyncio.to_thread(_document, body)
            context = _taken_context(document) if with_context else ""
            pictures = await asyncio.to_thread(_from_json, document, request, limits)
        else:
            pictures = [_single(request, media_type, body, limits)]
    if not pictures:
        raise BadRequest("no picture in the request: send one or more parts named `image`")
    if len(pictures) > limits.max_images:
        raise _too_many(limits)
    return Incoming(tuple(pictures), context)


def _taken_context(fields: dict[str, Any] | dict[str, str]) -> str:
    """The free text about the part, taken out of the fields beside it. Raises BadRequest when it is none or too long."""
    context = fields.pop("context", "")
    if not isinstance(context, str) or len(context) > _LONGEST_CONTEXT:
        raise BadRequest(f"context must be a text of at most {_LONGEST_CONTEXT} characters")
    return context


async def read_body(request: Request, limits: BodyLimits) -> bytes:
    """The whole body, bounded in size and time. Raises TooLarge, BadRequest, HTTPException 408."""
    async with _in_time(limits):
        return b"".join([chunk async for chunk in _bounded(request, limits)])


@contextlib.asynccontextmanager
async def _in_time(limits: BodyLimits) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(limits.timeout_s):
            yield
    except TimeoutError as error:
        late = f"the body did not arrive within {limits.timeout_s:g} s"
        raise HTTPException(408, late, {"connection": "close"}) from error
    except ClientDisconnect as error:
        raise BadRequest("the client left before the body had arrived") from error


def _too_many(limits: BodyLimits) -> TooLarge:
    return TooLarge(f"more than {limits.max_images} pictures in one request")


async def _bounded(request: Request, limits: BodyLimits) -> AsyncGenerator[bytes, None]:
    """The body's chunks; stops reading at the limit, announced or real."""
    message = f"the body is larger than {limits.max_bytes} bytes"
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.max_bytes:
        raise TooLarge(message)
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limits.max_bytes:
            raise TooLarge(message)
        yield chunk


async def _multipart(request: Request, limits: BodyLimits) -> tuple[list[bytes], dict[str, str]]:
    """The pictures of the parts `image`, and the text fields beside them."""
    parser = _PicturesParser(
        request.headers,
        _bounded(request, limits),
        max_files=limits.max_images,
        max_fields=_MOST_META,
        max_part_size=64 * 1024,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many(limits) from error
        raise BadRequest(f"the multipart body cannot be read: {error.message}") from error
    fields: dict[str, str] = {}
    blobs: list[bytes] = []
    try:
        for name, value in form.multi_items():
            if isinstance(value, str):
                if name in fields:
                    raise BadRequest(f"field {name[:_LONGEST_META_NAME]!r} is there twice")
                fields[name] = value
            elif name == "image":
                blobs.append(await value.read())
            else:
                raise BadRequest(f"part {name!r} has a file; pictures are parts named `image`")
    finally:
        await form.close()
    return blobs, fields


def _single(request: Request, media_type: str, body: bytes, limits: BodyLimits) -> Picture:
    metadata = _metadata(request, {})
    if media_type == "application/octet-stream":
        return _raw(body, request.headers.get("x-image-shape"), metadata, limits)
    return Picture(body, metadata=metadata)


def _document(body: bytes) -> dict[str, Any]:
    try:
        document: Any = json.loads(body, object_pairs_hook=_named_once)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("images"), list):
        raise BadRequest('JSON bodies have the form {"images": [{"data": "<base64>"}], "metadata": {}}')
    return document


def validated(form: type[Form], body: bytes) -> Form:
    """A body of JSON as `form`. Raises BadRequest for what is no JSON or has a name twice, pydantic's ValidationError."""
    try:
        json.loads(body, object_pairs_hook=_named_once)
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is not JSON") from error
    return form.model_validate_json(body)


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises BadRequest for a name given twice: whichever were taken, the other would be ignored."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise BadRequest(f"the JSON names {name[:_LONGEST_META_NAME]!r} twice")
        found[name] = value
    return found


def _from_json(document: dict[str, Any], request: Request, limits: BodyLimits) -> list[Picture | FlawscribeError]:
    if len(document["images"]) > limits.max_images:  # before anything is made of them: a body has room for millions
        raise _too_many(limits)
    if unknown := set(document) - {"images", "metadata"}:
        raise BadRequest(f"unknown JSON fields: {', '.join(sorted(map(str, unknown)))}; known are images, metadata")
    given = document.get("metadata")
    given = {} if given is None else given
    if not isinstance(given, dict) or not all(map(_is_text_or_number, given.values())):
        raise BadRequest("metadata must be an object of texts or numbers")
    metadata = _metadata(request, {name: str(value) for name, value in given.items()})
    return [_from_base64(entry, metadata) for entry in document["images"]]


def _is_text_or_number(value: Any) -> bool:
    if isinstance(value, bool):
        return False
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _from_base64(entry: Any, metadata: dict[str, str]) -> Picture | FlawscribeError:
    if not isinstance(entry, dict) or not isinstance(entry.get("data"), str):
        return UnreadableImage('an image must be {"data": "<base64>"}')
    if unknown := set(entry) - {"data"}:
        raise BadRequest(
            f"unknown fields of an image: {', '.join(sorted(unknown))}; metadata stands beside images, for all of them"
        )
    text = entry["data"]
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        text = "".join(text.split())  # MIME breaks it into lines
        return Picture(base64.b64decode(text, validate=True), metadata=metadata)
    except (binascii.Error, ValueError) as error:
        return UnreadableImage(f"the image's data is not base64: {error}")


def _raw(body: bytes, shape: str | None, metadata: dict[str, str], limits: BodyLimits) -> Picture:
    match = re.fullmatch(r"\s*(\d{1,6})\s*,\s*(\d{1,6})\s*,\s*3\s*", shape or "")
    if match is None:
        raise BadRequest(f"raw pictures need the header X-Image-Shape: H,W,3 (uint8 RGB), got {shape!r}")
    height, width = int(match.group(1)), int(match.group(2))
    if height * width > limits.max_pixels:
        raise TooLarge(f"the picture has {width}x{height} pixels, the limit is {limits.max_pixels}")
    if not height or not width or len(body) != height * width * 3:
        raise BadRequest(f"X-Image-Shape {height},{width},3 needs {height * width * 3} bytes, the body has {len(body)}")
    return Picture(body, raw=np.frombuffer(body, np.uint8).reshape(height, width, 3), metadata=metadata)


def _metadata(request: Request, fields: dict[str, str]) -> dict[str, str]:
    """The X-Meta-* headers, and the body's own `fields`. Raises BadRequest for what cannot be kept, InvalidParameter for a value
    that nobody could ask for."""
    metadata: dict[str, str] = {}
    for header, value in request.headers.items():
        if header.startswith(_META_HEADER):
            name = header[len(_META_HEADER) :]
            name = "captured_at" if name == "captured-at" else name  # proxies drop headers with underscores
            if name in metadata:
                raise BadRequest(f"header X-Meta-{name[:_LONGEST_META_NAME]} is there twice")
            metadata[name] = _from_header(value)
    for name in metadata.keys() & fields.keys():
        if metadata[name] != fields[name]:
            raise BadRequest(f"{name[:_LONGEST_META_NAME]} is one thing in the header X-Meta-* and another in the body")
    metadata |= fields
    if len(metadata) > _MOST_META:
        raise BadRequest(f"more than {_MOST_META} metadata entries")
    for name, value in metadata.items():
        if not name or len(value) > _LONGEST_META or len(name) > _LONGEST_META_NAME:
            raise BadRequest(
                f"metadata {name[:_LONGEST_META_NAME]!r}: names have 1 to {_LONGEST_META_NAME} characters, "
                f"values at most {_LONGEST_META}"
            )
        try:
            (name + value).encode()
        except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair, which no answer could carry
            raise BadRequest("metadata is not valid Unicode") from error
    for name in _IDENTIFYING:
        if any(unicodedata.category(each) in ("Cc", "Zl", "Zp") for each in metadata.get(name, "").strip()):
            raise InvalidParameter(f"{name} has a line break or another control character in it")
    if captured_at := metadata.get("captured_at"):
        moment_of("captured_at", captured_at)
    return metadata


def _from_header(value: str) -> str:
    """Header bytes, which the framework reads as Latin-1, as the UTF-8 that most clients send, where they are."""
    try:
        return value.encode("latin-1").decode()
    except UnicodeDecodeError:
        return value
