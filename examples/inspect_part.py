"""One picture of a part to its verdict. Needs `pip install requests`.

    INSPECT_URL=http://localhost:8000 INSPECT_KEY=fls_... python examples/inspect_part.py part.png SERIAL LOT STATION

Exit code: 0 ok, 10 not_ok, 11 a person must look (review, undecidable), any other: the part is not inspected.
"""

import hashlib
import os
import random
import sys
import time
from pathlib import Path

import requests

URL = os.environ.get("INSPECT_URL", "http://localhost:8000")
KEY = os.environ.get("INSPECT_KEY")
PATIENCE_S = 30.0  # after that the line must go on without an answer
AGAIN = {408, 429, 502, 503, 504}  # too busy, restarting, late: the same request may pass in a moment


def inspect(picture: bytes, serial: str, lot: str, station: str) -> dict:
    """The result of one picture. Raises RuntimeError when there is none: treat the part as not inspected."""
    give_up = time.monotonic() + PATIENCE_S
    headers = {
        # one shot of one part: however often this is sent, it is judged and recorded once; a digest, since headers are ASCII
        "Idempotency-Key": hashlib.sha256(f"{serial}\n{station}\n".encode() + picture).hexdigest(),
        **({"Authorization": f"Bearer {KEY}"} if KEY else {}),
    }
    fields = {"serial": serial, "lot": lot, "station": station}
    wait_s = 0.5
    with requests.Session() as session:  # keeps the connection: the next part need not open one
        while True:
            left_s = give_up - time.monotonic()
            if left_s <= 0:
                raise RuntimeError(f"no answer within {PATIENCE_S:g} s")
            try:
                answer = session.post(
                    f"{URL}/detect",
                    files={"image": ("part", picture)},
                    data=fields,
                    headers={**headers, "X-Deadline-Ms": str(max(1, int(left_s * 1000)))},
                    timeout=(3, left_s + 1),
                )
            except requests.RequestException as error:
                print(f"{error}; trying again", file=sys.stderr)
            else:
                if answer.status_code == 200:
                    return answer.json()["results"][0]
                if answer.status_code not in AGAIN:  # wrong picture, key, parameter: the same request fails again
                    raise RuntimeError(f"{answer.status_code}: {told(answer)}")
                wait_s = float(answer.headers.get("Retry-After", wait_s))
            # a little at random, so that the stations of a line do not all come back at the same moment
            time.sleep(min(wait_s * random.uniform(1, 1.3), max(0.0, give_up - time.monotonic())))
            wait_s = min(2 * wait_s, 8)


def told(answer: requests.Response) -> str:
    """What went wrong; a proxy in between may say it in HTML."""
    is_json = "json" in answer.headers.get("Content-Type", "")
    return answer.json()["detail"] if is_json else answer.text[:200]


def main() -> int:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    path, serial, lot, station = (*sys.argv[1:], "", "", "")[:4]
    try:
        result = inspect(Path(path).read_bytes(), serial, lot, station)
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    print(serial, result["verdict"], f"score {result['anomaly_score']} of {result['threshold']}", result["id"])
    return {"ok": 0, "not_ok": 10}.get(result["verdict"], 11)


if __name__ == "__main__":
    sys.exit(main())
