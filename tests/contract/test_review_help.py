"""What the console asks beside the contract's own: open flaws, small pictures, past flaws, labels, a table."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.contract.serving import Service
from tests.networks import grey_picture, png

HOSTILE = '=HYPERLINK("http://evil.example")<script>alert(1)</script>'


def flawed(seed: int = 0) -> bytes:
    picture = grey_picture(300, 400)
    picture[60 + seed : 100 + seed, 60:100] = 30
    return png(picture)


def inspect(service: Service, data: bytes, lot: str, store: str = "image") -> dict[str, Any]:
    headers = {"content-type": "image/png", "x-meta-lot": lot, "x-meta-product": "cloth"}
    answer = service.client.post(f"/classify?store={store}", content=data, headers=headers)
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()["results"][0]
    return result


def review(service: Service, inspection_id: str, **said: str) -> None:
    body = {"verdict": "right", "who": "Kim"} | said
    answer = service.client.post(f"/inspections/{inspection_id}/review", json=body)
    assert answer.status_code == 201, answer.text


def ids(service: Service, query: str) -> list[str]:
    answer = service.client.get(f"/inspections?{query}")
    assert answer.status_code == 200, answer.text
    return [each["id"] for each in answer.json()["inspections"]]


def test_flaws_that_nobody_has_reviewed_are_found(service: Service) -> None:
    good = inspect(service, png(grey_picture(300, 400)), "open")["id"]
    bad, other = (inspect(service, flawed(seed), "open")["id"] for seed in range(2))
    review(service, other)
    flags = "lot=open&verdict=not_ok&verdict=review&verdict=undecidable"
    assert ids(service, f"{flags}&reviewed=false") == [bad]
    assert ids(service, f"{flags}&reviewed=true") == [other]
    assert ids(service, "lot=open&verdict=ok&reviewed=false") == [good]
    assert ids(service, flags) == [other, bad]
    assert service.client.get("/inspections?verdict=not_ok&verdict=bad").status_code == 422


def test_a_small_picture_is_a_jpeg_within_its_width(service: Service) -> None:
    seen = inspect(service, flawed(), "small")
    answer = service.client.get(f"/inspections/{seen['id']}/image?width=100")
    assert answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == (100, 75)
    for wrong in ("width=0", "width=9999", "size=3"):
        assert service.client.get(f"/inspections/{seen['id']}/image?{wrong}").status_code == 422
    unseen = inspect(service, flawed(), "small", store="record")
    assert service.client.get(f"/inspections/{unseen['id']}/image?width=100").status_code == 404


def test_past_flaws_and_labels_help_a_reviewer(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (inspect(service, flawed(seed), "past") for seed in (3, 4))
    review(service, first["id"], label="ink <b>", cause="printer", action="clean it")
    similar = service.client.get(f"/inspections/{second['id']}/similar").json()
    assert similar["region"] == 0
    case = next(each for each in similar["cases"] if each["inspection_id"] == first["id"])
    assert (case["label"], case["cause"], case["action"]) == ("ink <b>", "printer", "clean it")
    own = service.client.get(f"/inspections/{first['id']}/similar").json()
    assert first["id"] not in [each["inspection_id"] for each in own["cases"]]
    labels = service.client.get("/labels?product=cloth").json()["labels"]
    assert {"label": "ink <b>", "words": ""} in labels
    assert "unknown" not in [each["label"] for each in labels]
    path = f"/inspections/{second['id']}/similar"
    assert service.client.get(f"{path}?region=0").json() == similar
    for wrong in ("region=1", "region=-1", "place=0"):
        assert service.client.get(f"{path}?{wrong}").status_code == 422
    assert service.state.records is not None
    old = service.state.records.inspections.get(second["id"])
    for older in (old.descriptors[:, :-1], np.concatenate(([[2.0]], old.descriptors[:, 1:]), axis=1)):
        fake = replace(old, descriptors=older.astype(np.float32))
        monkeypatch.setattr(service.state.records.inspections, "get", lambda _, fake=fake: fake)
        answer = service.client.get(path)
        assert (answer.status_code, answer.json()["cases"]) == (200, [])
    monkeypatch.undo()
    good = inspect(service, png(grey_picture(300, 400)), "past")
    nothing = service.client.get(f"/inspections/{good['id']}/similar").json()
    assert (nothing["region"], nothing["cases"]) == (None, [])
    assert service.client.get(f"/inspections/{'0' * 32}/similar").status_code == 404


@pytest.mark.parametrize("lot", [HOSTILE])
def test_the_table_has_the_filters_inspections_and_no_formula(service: Service, lot: str) -> None:
    sent = service.client.post("/classify", files={"image": ("a.png", flawed())}, data={"lot": lot}).json()
    answer = service.client.get("/inspections.csv", params={"lot": lot})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in answer.headers["content-disposition"]
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["id"], row["verdict"], row["lot"]) == (sent["results"][0]["id"], "not_ok", f"'{lot}")
    assert service.client.get("/inspections.csv?limit=3").status_code == 422
