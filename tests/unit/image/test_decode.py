"""docs/decode-policy.md, line by line."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from service.errors import FlawscribeError, TooLarge, UnreadableImage
from service.image.decode import decode, read_header

LIMIT = 10_000_000
SCENE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_the_pixels(format: str) -> None:
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(SCENE), format), LIMIT), SCENE)


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_formats_give_rgb_in_order(format: str) -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 250
    got = decode(encoded(Image.fromarray(red), format, quality=95), LIMIT)
    assert got[16, 16, 0] > 230
    assert got[16, 16, 2] < 25


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_and_known_from_the_header(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(SCENE), "PNG", exif=exif)
    header, got = read_header(data, LIMIT), decode(data, LIMIT)
    assert (header.height, header.width) == got.shape[:2]
    turned = {
        1: SCENE,
        2: SCENE[:, ::-1],
        3: SCENE[::-1, ::-1],
        4: SCENE[::-1],
        5: SCENE.swapaxes(0, 1),
        6: np.rot90(SCENE, -1),
        7: SCENE[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(SCENE, 1),
    }[orientation]
    np.testing.assert_array_equal(got, turned)


def test_grey_is_repeated_in_three_channels() -> None:
    got = decode(encoded(Image.fromarray(SCENE[..., 0])), LIMIT)
    np.testing.assert_array_equal(got, np.repeat(SCENE[..., :1], 3, axis=2))


@pytest.mark.parametrize("level", [0, 1, 128, 257, 30000, 65535])
def test_sixteen_bits_are_divided_by_257_whatever_the_picture_holds(level: int) -> None:
    deep = np.full((8, 8), level, np.uint16)
    for format in ("PNG", "TIFF"):
        got = decode(encoded(Image.fromarray(deep), format), LIMIT)
        assert (got == round(level / 257)).all()


def test_transparency_lies_on_white() -> None:
    rgba = np.dstack([SCENE, np.zeros(SCENE.shape[:2], np.uint8)])
    assert (decode(encoded(Image.fromarray(rgba)), LIMIT) == 255).all()
    palette = Image.fromarray(SCENE).quantize(16)
    assert decode(encoded(palette, transparency=palette.getpixel((0, 0))), LIMIT)[0, 0].tolist() == [255, 255, 255]


def test_palette_and_cmyk_become_rgb() -> None:
    palette = Image.fromarray(SCENE).quantize(16)
    np.testing.assert_array_equal(decode(encoded(palette), LIMIT), np.asarray(palette.convert("RGB")))
    blue = Image.new("RGB", (32, 32), (10, 20, 240)).convert("CMYK")
    got = decode(encoded(blue, "JPEG", quality=95), LIMIT)
    assert got[16, 16, 2] > 200
    assert got[16, 16, 0] < 60


def test_interlaced_and_progressive_are_read() -> None:
    assert decode(encoded(Image.fromarray(SCENE), "JPEG", progressive=True), LIMIT).shape == SCENE.shape


def test_an_all_black_picture_stays_black() -> None:
    assert (decode(encoded(Image.new("RGB", (8, 8))), LIMIT) == 0).all()


def test_the_first_frame_of_an_animation_is_read() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert decode(data, LIMIT)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_a_truncated_picture_is_unreadable(format: str) -> None:
    data = encoded(Image.fromarray(np.tile(SCENE, (8, 8, 1))), format)
    with pytest.raises(UnreadableImage):
        decode(data[: len(data) // 2], LIMIT)


@pytest.mark.parametrize("data", [b"", b"GIF89a" + bytes(50), b"<svg/>", b"\x89PNG\r\n\x1a\n", bytes(100)])
def test_what_is_no_picture_is_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadableImage):
        decode(data, LIMIT)


def test_formats_that_are_not_named_are_not_read() -> None:
    with pytest.raises(UnreadableImage, match="formats read here"):
        decode(encoded(Image.fromarray(SCENE), "GIF"), LIMIT)


def test_floating_point_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="floating point"):
        decode(encoded(Image.fromarray(SCENE[..., 0].astype(np.float32)), "TIFF"), LIMIT)


def test_a_bomb_is_refused_by_its_header() -> None:
    data = encoded(Image.new("1", (5000, 5000)))
    for read in (read_header, decode):
        with pytest.raises(TooLarge, match="5000x5000"):
            read(data, 1_000_000)


@given(st.binary(max_size=300), st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "WEBP"]), st.integers(0, 2000))
def test_damage_never_raises_anything_unexpected(noise: bytes, format: str, place: int) -> None:
    data = bytearray(encoded(Image.fromarray(SCENE), format))
    place %= len(data)
    data[place : place + len(noise)] = noise
    try:
        assert decode(bytes(data), 100_000).dtype == np.uint8
    except FlawscribeError:
        pass
