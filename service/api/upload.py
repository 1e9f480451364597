"""A form with one large file -> the file on disk and the fields beside it. Bounded in size; time counts while nothing comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from service.errors import BadRequest, NotReady, TooLarge

_MOST_FIELDS = 64


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """Bytes of the whole body, and seconds in which more of it must come."""

    max_bytes: int
    idle_s: float


class _ToDisk(MultiPartParser):
    """Writes the file straight to its place: a spooled one would go through the system's temporary folder, which may be
    memory."""

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes, None], target: Path) -> None:
        super().__init__(headers, stream, max_files=1, max_fields=_MOST_FIELDS, max_part_size=64 * 1024)
        self._target = target

    def on_headers_finished(self) -> None:
        super().on_headers_finished()
        spooled = self._current_part.file
        if spooled is not None:
            spooled.file.close()
            file = self._target.open("xb")
            self._files_to_close_on_error.append(file)  # type: ignore[arg-type]
            self._current_part.file = UploadFile(file, size=0, filename=spooled.filename, headers=spooled.headers)


async def read_upload(request: Request, part: str, target: Path, limits: UploadLimits) -> dict[str, str]:
    """Write the file of the form's part `part` to `target`; the text fields beside it. The caller removes `target`.

    Raises BadRequest for another form or without the file, TooLarge, HTTPException 408 when nothing comes any more.
    """
    parser = _ToDisk(request.headers, _bounded(request, limits), target)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise BadRequest(f"the multipart body cannot be read: {error.message}") from error
    except ClientDisconnect as error:
        raise BadRequest("the client left before the body had arrived") from error
    except OSError as error:
        raise NotReady(f"the trainings folder cannot take the upload: {error.strerror}", retry_after=60) from error
    try:
        files = {name: value for name, value in form.multi_items() if isinstance(value, UploadFile)}
        if set(files) != {part}:
            named = f", not {', '.join(map(repr, files))}" if files else ""
            raise BadRequest(f"send the zip as a file in the form's part named `{part}`{named}")
        fields: dict[str, str] = {}
        for name, value in form.multi_items():
            if name in fields:
                raise BadRequest(f"field {name[:100]!r} is there twice")
            if isinstance(value, str):
                fields[name] = value
        return fields
    finally:
        await form.close()


async def _bounded(request: Request, limits: UploadLimits) -> AsyncGenerator[bytes, None]:
    message = f"the upload is larger than {limits.max_bytes >> 20} MiB (FLAWSCRIBE_TRAINING_UPLOAD_MB)"
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limits.max_bytes:
        raise TooLarge(message)
    stream = request.stream()
    received = 0
    while True:
        try:
            async with asyncio.timeout(limits.idle_s):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            late = f"nothing of the upload came for {limits.idle_s:g} s"
            raise HTTPException(408, late, {"connection": "close"}) from error
        if chunk is None:
            return
        received += len(chunk)
        if received > limits.max_bytes:
            raise TooLarge(message)
        yield chunk
