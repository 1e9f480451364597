from __future__ import annotations

import base64
import hashlib
import io
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.api import wire
from tests.contract.serving import Service, wait_until
from tests.networks import grey_picture, png

FLAW = (slice(100, 140), slice(200, 260))


def flawed() -> np.ndarray:
    picture = grey_picture(300, 500)
    picture[FLAW] = 30
    return picture


GOOD, BAD = png(grey_picture(300, 500)), png(flawed())


def results(response: Any) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["results"]
    return found


def only(response: Any) -> dict[str, Any]:
    (result,) = results(response)
    return result


def test_a_flawed_picture_is_not_ok_and_the_region_lies_on_the_flaw(service: Service) -> None:
    result = only(service.client.post("/detect", files={"image": ("part.png", BAD, "image/png")}))
    assert result["verdict"] == "not_ok"
    assert result["is_anomalous"] is True
    assert result["anomaly_score"] > result["threshold"] > result["review_threshold"]
    assert result["p_value"] == pytest.approx(0.1)
    assert result["image"] == {"width": 500, "height": 300, "sha256": hashlib.sha256(BAD).hexdigest()}
    (region,) = result["regions"]
    x, y, w, h = region["box"]
    for found, true in ((x, 200), (y, 100), (x + w, 260), (y + h, 140)):
        assert abs(found - true) <= 4 * 500 / 448 + 1
    assert abs(region["centroid"][0] - 230) < 5
    assert set(result["timings_ms"]) == {"decode", "prepare", "queue", "network", "decide"}


def test_a_good_picture_is_ok_without_regions(service: Service) -> None:
    response = service.client.post("/detect", files={"image": ("part.png", GOOD)})
    result = only(response)
    assert (result["verdict"], result["is_anomalous"], result["regions"]) == ("ok", False, [])
    assert response.json()["model"] == {"name": "probe", "version": 1, "precision": "float32", "provider": "cpu"}
    assert "network;dur=" in response.headers["server-timing"]


def same_answer(response: Any, data: bytes = BAD) -> None:
    result = only(response)
    assert result["verdict"] == "not_ok"
    assert result["image"]["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_raw_bodies(service: Service, format: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(flawed()).save(buffer, format)
    headers = {"content-type": f"image/{format.lower()}"}
    same_answer(service.client.post("/detect", content=buffer.getvalue(), headers=headers), buffer.getvalue())


def test_the_bytes_tell_the_format_and_no_content_type_or_file_name(service: Service) -> None:
    buffer = io.BytesIO()
    Image.fromarray(flawed()).save(buffer, "JPEG", quality=60)
    data = buffer.getvalue()
    asked: list[dict[str, Any]] = [
        {"content": data, "headers": {"content-type": "image/jpeg"}},
        {"content": data, "headers": {"content-type": "image/png"}},
        {"files": {"image": ("a.png", data, "image/png")}},
    ]
    answers = [service.client.post("/detect", **each) for each in asked]
    for answer in answers:
        same_answer(answer, data)
    assert len({only(answer)["anomaly_score"] for answer in answers}) == 1


@pytest.mark.parametrize("encode", [base64.b64encode, base64.encodebytes])  # the second breaks lines, as MIME does
def test_json_base64(service: Service, encode: Callable[[bytes], bytes]) -> None:
    body = {"images": [{"data": encode(BAD).decode()}], "metadata": {"serial": "A1", "cavity": 3}}
    response = service.client.post("/detect", json=body)
    same_answer(response)
    assert only(response)["metadata"] == {"serial": "A1", "cavity": "3"}


def test_raw_rgb(service: Service) -> None:
    data = flawed().tobytes()
    headers = {"content-type": "application/octet-stream", "x-image-shape": "300,500,3", "x-meta-lot": "L7"}
    response = service.client.post("/detect", content=data, headers=headers)
    same_answer(response, data)
    assert only(response)["metadata"] == {"lot": "L7"}


def test_all_forms_give_the_same_score(service: Service) -> None:
    ways = [
        {"files": {"image": ("a.png", BAD)}},
        {"content": BAD, "headers": {"content-type": "image/png"}},
        {"json": {"images": [{"data": base64.b64encode(BAD).decode()}]}},
        {
            "content": flawed().tobytes(),
            "headers": {"content-type": "application/octet-stream", "x-image-shape": "300,500,3"},
        },
    ]
    scores = {only(service.client.post("/detect", **way))["anomaly_score"] for way in ways}  # type: ignore[arg-type]
    assert len(scores) == 1


def test_several_pictures_are_answered_in_order_and_a_broken_one_in_its_place(service: Service) -> None:
    files = [("image", ("a.png", BAD)), ("image", ("b.png", b"no picture")), ("image", ("c.png", GOOD))]
    response = service.client.post("/detect", files=files, data={"serial": "S9"})
    first, broken, last = results(response)
    assert (first["verdict"], last["verdict"]) == ("not_ok", "ok")
    assert broken["error"]["status"] == 400
    assert broken["error"]["request_id"] == response.json()["request_id"]
    assert first["metadata"] == {"serial": "S9"}


def test_more_pictures_than_the_queue_holds_are_all_answered(service: Service) -> None:
    response = service.client.post("/detect", files=[("image", (f"{k}.png", BAD)) for k in range(30)])
    assert [result["verdict"] for result in results(response)] == ["not_ok"] * 30


def test_include_gives_the_pictures_asked_for(service: Service) -> None:
    query = {"include": "regions,map,mask,overlay"}
    result = only(service.client.post("/detect", params=query, files={"image": ("a.png", BAD)}))
    mask, overlay, mapped = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(result[name]["data"]))))
        for name in ("mask", "overlay", "anomaly_map")
    )
    assert set(result["mask"]) == set(result["overlay"]) == {"media_type", "data"}
    assert set(result["anomaly_map"]) == {"media_type", "data", "scale", "offset"}
    assert mask.shape == (300, 500)
    assert overlay.shape == (300, 500, 3)
    x, y, w, h = result["regions"][0]["box"]
    assert mask[y : y + h, x : x + w].any(axis=0).all()
    assert (mask > 0).sum() == result["regions"][0]["area_px"]
    scores = result["anomaly_map"]["offset"] + result["anomaly_map"]["scale"] * mapped.astype(float)
    assert mapped.dtype == np.uint16
    assert scores.max() == pytest.approx(result["anomaly_score"], rel=1e-6)
    assert ((scores > result["review_threshold"]) == (mask > 0)).all()
    assert scores[FLAW].mean() > 0.6
    assert scores[:60, :60].mean() < 0.2


def test_nothing_is_drawn_unless_asked_for(service: Service) -> None:
    spaced = only(service.client.post("/detect", params={"include": " regions, mask"}, files={"image": ("a.png", BAD)}))
    assert spaced["regions"]
    assert spaced["mask"]
    assert spaced["overlay"] is None
    result = only(service.client.post("/detect", params={"include": ""}, files={"image": ("a.png", BAD)}))
    assert [result[name] for name in ("regions", "anomaly_map", "mask", "overlay")] == [None] * 4


def test_accept_png_answers_the_overlay_itself(service: Service) -> None:
    headers = {"accept": "image/png"}
    response = service.client.post("/detect", files={"image": ("a.png", BAD)}, headers=headers)
    assert response.headers["content-type"] == "image/png"
    drawn = np.asarray(Image.open(io.BytesIO(response.content))).astype(int)
    assert drawn.shape == (300, 500, 3)
    assert np.abs(drawn[FLAW] - flawed()[FLAW]).mean() > 20
    assert np.abs(drawn[:50, :50] - 230).max() <= 1
    two = [("image", ("a.png", BAD))] * 2
    assert service.client.post("/detect", files=two, headers=headers).status_code == 406
    either = {"accept": "image/png, application/json;q=0.5"}
    assert len(service.client.post("/detect", files=two, headers=either).json()["results"]) == 2
    text = service.client.post("/detect", files={"image": ("a.png", BAD)}, headers={"accept": "text/plain"})
    assert text.status_code == 406


@pytest.mark.parametrize(
    ("accept", "given"),
    [
        ("image/png", "image/png"),
        ("IMAGE/PNG;Q=0.5", "image/png"),
        ("image/*", "image/png"),
        ("image/png, */*;q=0.1", "image/png"),
        ("application/json;q=0.2, image/*;q=0.3", "image/png"),
        ("image/png, application/json", "application/json"),
        ("image/png;q=0, */*", "application/json"),
        ("application/*", "application/json"),
        ("*/*", "application/json"),
        ("", "application/json"),
        ("image/png;q=0", None),
        ("image/jpeg", None),
    ],
)
def test_accept_is_read_with_its_weights(service: Service, accept: str, given: str | None) -> None:
    response = service.client.post("/detect", files={"image": ("a.png", BAD)}, headers={"accept": accept})
    assert response.headers["content-type"] == (given or "application/problem+json")
    assert response.status_code == (200 if given else 406)


def test_the_series_of_scores_does_not_move_with_callers_thresholds(service: Service) -> None:
    def counted(most: str) -> float:
        labels = {"model": "probe", "le": most}
        return service.state.metrics.registry.get_sample_value("flawscribe_anomaly_score_bucket", labels) or 0.0

    before = counted("1.0"), counted("+Inf")
    for query in ({}, {"threshold": -1.0}, {"threshold": 100.0}):
        assert service.client.post("/detect", files={"image": BAD}, params=query).status_code == 200
    assert (counted("1.0"), counted("+Inf")) == (before[0], before[1] + 3)  # all three over the model's own


def test_the_callers_threshold_replaces_the_models(service: Service) -> None:
    def ask(threshold: float) -> dict[str, Any]:
        query = {"threshold": threshold}
        return only(service.client.post("/detect", params=query, files={"image": ("a.png", BAD)}))

    high, low = ask(5), ask(0.01)
    assert (high["verdict"], high["threshold"], high["threshold_method"]) == ("review", 5, "request")
    assert (low["verdict"], low["review_threshold"]) == ("not_ok", 0.01)


def test_request_id_is_echoed_or_made(service: Service) -> None:
    sent = service.client.post("/detect", files={"image": ("a.png", GOOD)}, headers={"x-request-id": "mes-42"})
    assert sent.headers["x-request-id"] == sent.json()["request_id"] == "mes-42"
    made = service.client.get("/healthz", headers={"x-request-id": "bad\tid!"})
    assert len(made.headers["x-request-id"]) == 32


def problem(response: Any, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert set(body) == {"type", "title", "status", "detail", "request_id"}
    assert body["status"] == status
    assert body["request_id"] == response.headers["x-request-id"]
    return str(body["detail"])


def test_problems(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    post = service.client.post
    image = {"image": ("a.png", GOOD)}
    assert "formats read here" in problem(post("/detect", files={"image": ("a", b"junk")}), 400)
    assert "empty" in problem(post("/detect", content=b"", headers={"content-type": "image/png"}), 400)
    assert "image/gif" in problem(post("/detect", content=b"x", headers={"content-type": "image/gif"}), 415)
    assert "(none)" in problem(post("/detect", content=b"x"), 415)
    assert "colour" in problem(post("/detect", params={"colour": "red"}, files=image), 422)
    assert "heat" in problem(post("/detect", params={"include": "heat"}, files=image), 422)
    assert "more than once" in problem(post("/detect?threshold=1&threshold=2", files=image), 422)
    assert "more than once" in problem(post("/classify?include=map&include=mask", files=image), 422)
    problem(post("/detect?model=", files=image), 422)  # a variable that was empty, and not the default model
    assert "finite" in problem(post("/detect", params={"threshold": "nan"}, files=image), 422)
    for stated in ("soon", "0", "9" * 5000):
        assert "X-Deadline-Ms" in problem(post("/detect", files=image, headers={"x-deadline-ms": stated}), 422)
    assert "no model 'x'" in problem(post("/detect", params={"model": "x"}, files=image), 404)
    assert "no version 9" in problem(post("/detect", params={"version": 9}, files=image), 404)
    assert "no picture" in problem(post("/detect", files={"other": (None, "text")}), 400)
    assert "not JSON" in problem(post("/detect", content=b"{", headers={"content-type": "application/json"}), 400)
    assert "base64" in problem(post("/detect", json={"images": [{"data": "%%%"}]}), 400)
    monkeypatch.setattr(wire, "_from_base64", None)  # nothing is made of pictures that are too many
    too_many = problem(post("/detect", json={"images": [0] * 1000}), 413)
    monkeypatch.undo()
    assert "more than" in too_many
    own = {"data": base64.b64encode(BAD).decode(), "metadata": {"serial": "A1"}}
    assert "metadata stands beside images" in problem(post("/detect", json={"images": [own]}), 400)
    for kind in ("true", "null", "[1]", "NaN", "1e999"):
        body = f'{{"images": [{{"data": ""}}], "metadata": {{"serial": {kind}}}}}'
        answer = post("/detect", content=body, headers={"content-type": "application/json"})
        assert "texts or numbers" in problem(answer, 400), kind
    for twice in ("/inspections?limit=1&limit=2", "/reports?from=2026-01-01&from=2026-01-02"):
        assert "more than once" in problem(service.client.get(twice), 422)
    assert service.client.get("/inspections?verdict=ok&verdict=review").status_code == 200  # any of these
    assert "application/json" in problem(post("/classify", files=image, headers={"accept": "image/png"}), 406)
    assert "unknown JSON fields" in problem(post("/detect", json={"images": [], "imgs": []}), 400)
    for path, methods in (("/detect", "POST"), ("/readyz", "GET, HEAD"), ("/models/demo/masters", "GET, HEAD, POST")):
        answer = service.client.patch(path)
        problem(answer, 405)
        assert answer.headers["allow"] == methods
    problem(service.client.get("/nowhere"), 404)
    problem(service.client.get("/models/..%2f..%2fetc"), 404)


def form(*parts: tuple[str, bytes], end: bytes = b"--XX--\r\n") -> dict[str, Any]:
    """A multipart body as sent: each part's disposition and content."""
    pieces = [
        f"--XX\r\nContent-Disposition: form-data; {what}\r\n\r\n".encode() + data + b"\r\n" for what, data in parts
    ]
    return {"content": b"".join(pieces) + end, "headers": {"content-type": "multipart/form-data; boundary=XX"}}


def test_a_part_named_image_is_a_picture_whatever_its_file_name(service: Service) -> None:
    for name in ("", '; filename=""', "; filename*=UTF-8''a.png"):
        same_answer(service.client.post("/detect", **form((f'name="image"{name}', BAD))))


def test_a_body_cut_short_is_no_shorter_list_of_pictures(service: Service) -> None:
    parts = ('name="image"; filename="a.png"', GOOD), ('name="image"; filename="b.png"', BAD)
    for end in (b"", b"--X"):
        assert "last boundary" in problem(service.client.post("/detect", **form(*parts, end=end)), 400)


def test_metadata_that_would_be_lost_is_refused(service: Service) -> None:
    picture = ('name="image"; filename="a.png"', GOOD)
    twice = form(picture, ('name="serial"', b"1"), ('name="serial"', b"2"))
    assert "'serial' is there twice" in problem(service.client.post("/detect", **twice), 400)
    assert "1 to 100" in problem(service.client.post("/detect", **form(picture, ('name=""', b"x"))), 400)
    raw = {"content-type": "image/png"}
    pairs = [*raw.items(), ("x-meta-lot", "1"), ("X-Meta-Lot", "2")]
    assert "twice" in problem(service.client.post("/detect", content=GOOD, headers=pairs), 400)
    many = raw | {f"x-meta-key{index}": "1" for index in range(65)}
    assert "64" in problem(service.client.post("/detect", content=GOOD, headers=many), 400)
    for form_of_it in (form(picture, ('name="serial"', b"1")), {"json": {"images": [], "metadata": {"serial": 1}}}):
        two_words = form_of_it.pop("headers", {}) | {"x-meta-serial": "2"}  # type: ignore[attr-defined]
        answer = service.client.post("/detect", **form_of_it, headers=two_words)  # type: ignore[arg-type]
        assert "in the header" in problem(answer, 400)
    for name in ("model", "version", "include", "threshold", "store", "counted"):
        misplaced = form(picture, (f'name="{name}"', b"1"))
        assert f"?{name}=" in problem(service.client.post("/detect", **misplaced), 422)
    assert "?model=" in problem(service.client.post("/classify", **form(picture, ('name="model"', b"1"))), 422)
    zipped = raw | {"content-encoding": "gzip"}
    assert "gzip" in problem(service.client.post("/detect", content=GOOD, headers=zipped), 415)


@pytest.mark.parametrize(
    ("name", "value"),
    [("serial", "a\nb"), ("lot", "a\x00b"), ("station", "1\u20282"), ("product", "a\rb"), ("view", "a\x7fb")]
    + [("captured_at", "yesterday"), ("captured_at", "2026-13-01"), ("captured_at", "0001-01-01T00:00+23:00")],
)
def test_metadata_that_could_not_be_asked_for_is_refused(service: Service, name: str, value: str) -> None:
    answer = service.client.post("/detect", files={"image": ("a.png", GOOD)}, data={name: value})
    assert name in problem(answer, 422)


def test_what_names_a_part_may_end_a_line_and_say_no_time(service: Service) -> None:
    harmless = {"serial": "A1\n", "captured_at": "", "note": "two\nlines"}
    assert only(service.client.post("/detect", files={"image": ("a.png", GOOD)}, data=harmless))["metadata"] == harmless


@pytest.mark.parametrize("metadata", ["[]", '""', "0", "false"])
def test_metadata_that_is_no_object_is_refused_though_it_be_empty(service: Service, metadata: str) -> None:
    sent = f'{{"images": [{{"data": "{base64.b64encode(GOOD).decode()}"}}], "metadata": {metadata}}}'
    headers = {"content-type": "application/json"}
    assert "metadata" in problem(service.client.post("/detect", content=sent, headers=headers), 400)
    whole = sent.replace(metadata + "}", "null}")
    assert service.client.post("/detect", content=whole, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        '{"images": [], "images": []}',
        '{"images": [{"data": "", "data": ""}]}',
        '{"images": [], "metadata": {"a": 1, "a": 2}}',
    ],
)
def test_a_name_that_json_gives_twice_is_refused(service: Service, body: str) -> None:
    answer = service.client.post("/detect", content=body, headers={"content-type": "application/json"})
    assert "twice" in problem(answer, 400)


def test_where_no_picture_can_be_judged_their_order_does_not_matter(service: Service) -> None:
    head = b"IHDR" + struct.pack(">II", 65535, 65535) + GOOD[24:29]
    large = ("large.png", GOOD[:12] + head + zlib.crc32(head).to_bytes(4) + GOOD[33:])
    junk = ("junk.png", b"junk")
    assert service.client.post("/detect", files=[("image", large)]).status_code == 413
    for pictures in ([junk, large], [large, junk]):
        assert service.client.post("/detect", files=[("image", each) for each in pictures]).status_code == 400


def test_a_shape_is_of_raw_pixels_alone(service: Service) -> None:
    headers = {"content-type": "image/png", "x-image-shape": "300,500,3"}
    assert "X-Image-Shape" in problem(service.client.post("/detect", content=GOOD, headers=headers), 400)


def test_metadata_in_headers_and_fields(service: Service) -> None:
    headers = [
        (b"x-meta-product", "Gehäuse".encode()),
        (b"x-meta-lot", "Gehäuse".encode("latin-1")),
        (b"x-meta-captured-at", b"2026-03-09T06:00:00Z"),
        (b"x-meta-serial", b"A1"),
    ]
    answer = service.client.post("/detect", files={"image": ("a.png", GOOD)}, data={"serial": "A1"}, headers=headers)
    expected = {"product": "Gehäuse", "lot": "Gehäuse", "captured_at": "2026-03-09T06:00:00Z", "serial": "A1"}
    assert only(answer)["metadata"] == expected


@pytest.mark.parametrize("shape", [None, "300,500", "300,500,4", "0,0,3", "-1,5,3", "301,500,3", "9999999,1,3"])
def test_a_wrong_raw_shape_is_said(service: Service, shape: str | None) -> None:
    headers = {"content-type": "application/octet-stream"} | ({"x-image-shape": shape} if shape else {})
    assert service.client.post("/detect", content=flawed().tobytes(), headers=headers).status_code in (400, 413)


def test_models_are_listed_and_described(service: Service) -> None:
    (model,) = service.client.get("/models").json()["models"]
    assert model == {"name": "probe", "default": True, "active_version": 1, "versions": [1]}
    detail = service.client.get("/models/probe").json()
    assert detail["versions"][0]["thresholds"]["float32"]["reject"] == 0.5


def shown(service: Service, line: str) -> float:
    """The figure of a line of /metrics."""
    found = [row for row in service.client.get("/metrics").text.splitlines() if row.startswith(line)]
    return float(found[0].split()[-1]) if found else 0.0


def test_the_event_loop_s_lag_is_measured_all_the_time(service: Service) -> None:
    before = shown(service, "flawscribe_event_loop_lag_seconds_count")
    wait_until(lambda: shown(service, "flawscribe_event_loop_lag_seconds_count") > before)


def test_metrics_count_what_was_asked(service: Service) -> None:
    lines = (
        'flawscribe_images_total{model="probe",verdict="not_ok"}',
        'flawscribe_requests_total{code="200",endpoint="/detect"}',
        'flawscribe_stage_seconds_count{stage="network"}',
        'flawscribe_image_seconds_count{model="probe"}',
        'flawscribe_network_seconds_per_window_count{model="probe"}',
        'flawscribe_anomaly_score_count{model="probe"}',
    )
    before = [shown(service, line) for line in lines]
    only(service.client.post("/detect", files={"image": ("a.png", BAD)}))
    after = [shown(service, line) for line in lines]
    assert [now - then for now, then in zip(after, before, strict=True)] == [
        1,
        1,
        1,
        1,
        4,
        1,
    ]  # the lower two of four tiles lie in one window; one more is the shrunk whole; a CPU takes one at a time
    assert shown(service, 'flawscribe_budget_seconds{model="probe"}') == pytest.approx(0.00625)
    assert shown(service, "flawscribe_queue_images") == 0
    assert 'flawscribe_model_info{model="probe",precision="float32",provider="cpu",version="1"}' in (
        service.client.get("/metrics").text
    )


def test_docs_reference_nothing_outside(service: Service) -> None:
    page = service.client.get("/docs").text
    assert "/detect" in page
    assert "http://" not in page
    assert "https://" not in page
    assert "/detect" in json.loads(service.client.get("/openapi.json").text)["paths"]
