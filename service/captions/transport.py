"""HTTP to an LLM endpoint that cannot hurt: bounded answers, no redirects, no compression, nothing from the environment."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2

from service.captions.answer import LlmUnavailable, Reason


class BoundedTransport(httpx2.AsyncHTTPTransport):
    """Reads at most `most_bytes` of any answer, errors too. Raises LlmUnavailable `too_large` beyond that."""

    def __init__(self, most_bytes: int, verify: ssl.SSLContext | bool, proxy: str | None) -> None:
        super().__init__(verify=verify, trust_env=False, proxy=proxy)
        self._most_bytes = most_bytes

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The answer, its body bounded. A compressed one is refused: its size would be known only too late."""
        request.headers["Accept-Encoding"] = "identity"
        response = await super().handle_async_request(request)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            await response.aclose()
            raise LlmUnavailable(Reason.MALFORMED, "the answer is compressed though none was asked for")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Bounded(response.stream, self._most_bytes)
        return response


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream, most_bytes: int) -> None:
        self._inner = inner
        self._left = most_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            self._left -= len(part)
            if self._left < 0:
                raise LlmUnavailable(Reason.TOO_LARGE, "the answer is larger than allowed")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


def http_client(base_url: str, most_bytes: int, ca_file: Path | None, proxy: str | None) -> httpx2.AsyncClient:
    """An HTTP client for AsyncOpenAI. `ca_file`: PEM of the authorities to trust instead of the usual ones."""
    if ca_file:
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=ca_file)
    elif base_url.lower().startswith("http:") and not proxy:
        verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody: spares the reading of all authorities
    else:
        verify = True
    transport = BoundedTransport(most_bytes, verify, proxy)
    return httpx2.AsyncClient(transport=transport, follow_redirects=False, trust_env=False)
