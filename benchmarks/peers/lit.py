"""LitServe with batching: pictures come as base64 in JSON and are prepared and judged in its worker process."""

from __future__ import annotations

import base64
import sys
from typing import Any

import litserve

from benchmarks.peers.work import Prepared, judged, load, prepared


class Detect(litserve.LitAPI):
    """Hooks named after the data's way."""

    def setup(self, device: str) -> None:
        self.bundle = load()

    def decode_request(self, request):  # type: ignore[no-untyped-def]  # an annotation would become a query parameter
        return prepared(self.bundle, base64.b64decode(request["image"]))

    def batch(self, inputs: list[Prepared]) -> list[Prepared]:
        return list(inputs)

    def predict(self, x: list[Prepared] | Prepared) -> Any:
        return judged(self.bundle, x if isinstance(x, list) else [x])

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    api = Detect(max_batch_size=4, batch_timeout=0.005, api_path="/detect")
    server = litserve.LitServer(api, accelerator="cpu", timeout=600)
    server.run(port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
