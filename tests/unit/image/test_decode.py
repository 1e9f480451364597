"""docs/decode-policy.md, line by line."""

from __future__ import annotations

import io
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngInfo

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


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})],
    ids=["png", "tiff", "tiff-lzw", "webp"],
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied_and_known_from_the_header(
    orientation: int, format: str, options: dict[str, object]
) -> None:
    data = encoded(Image.fromarray(SCENE), format, exif=exif_of(orientation), **options)
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


def test_xmp_rotation_is_applied() -> None:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    data = encoded(Image.fromarray(SCENE), pnginfo=info)
    np.testing.assert_array_equal(decode(data, LIMIT), np.rot90(SCENE, -1))
    assert (read_header(data, LIMIT).width, read_header(data, LIMIT).height) == (40, 60)


def test_an_orientation_behind_the_pixels_is_ignored_by_header_and_decoder_alike() -> None:
    plain = encoded(Image.fromarray(SCENE))
    end = plain.rindex(b"IEND") - 4
    data = plain[:end] + chunk(b"eXIf", exif_of(6).tobytes()) + plain[end:]
    assert (read_header(data, LIMIT).width, read_header(data, LIMIT).height) == (60, 40)
    np.testing.assert_array_equal(decode(data, LIMIT), SCENE)


def test_a_picture_whose_metadata_contradict_each_other_is_unreadable() -> None:
    xmp = b'<rdf:Description tiff:Orientation="6"/>'  # the TIFF's own tags know of no rotation
    with pytest.raises(UnreadableImage, match="contradict"):
        decode(encoded(Image.fromarray(SCENE), "TIFF", tiffinfo={700: xmp}), LIMIT)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_metadata_does_not_cost_the_pixels() -> None:
    broken = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + bytes(range(40))
    assert decode(encoded(Image.fromarray(SCENE), "JPEG", exif=broken), LIMIT).shape == SCENE.shape


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_the_header_is_read_without_decoding_pixels(format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: ImageFile) -> None:
        raise AssertionError("pixels were decoded")

    data = encoded(Image.fromarray(SCENE), format, exif=exif_of(6) if format != "BMP" else b"")
    for reader in (ImageFile, *ImageFile.__subclasses__()):
        monkeypatch.setattr(reader, "load", load)
    header = read_header(data, LIMIT)
    assert (header.width, header.height) == ((60, 40) if format == "BMP" else (40, 60))
    assert header.format == format


def test_one_bit_is_black_and_white() -> None:
    bits = SCENE[..., 0] > 127
    got = decode(encoded(Image.fromarray(bits)), LIMIT)
    np.testing.assert_array_equal(got, np.repeat(bits[..., None] * np.uint8(255), 3, axis=2))


def test_grey_is_repeated_in_three_channels() -> None:
    got = decode(encoded(Image.fromarray(SCENE[..., 0])), LIMIT)
    np.testing.assert_array_equal(got, np.repeat(SCENE[..., :1], 3, axis=2))


@pytest.mark.parametrize("level", [0, 1, 128, 257, 30000, 65535])
def test_sixteen_bits_are_divided_by_257_whatever_the_picture_holds(level: int) -> None:
    deep = np.full((8, 8), level, np.uint16)
    for kind in ("PNG", "TIFF"):
        got = decode(encoded(Image.fromarray(deep), kind), LIMIT)
        assert (got == round(level / 257)).all()


def tiff(width: int, height: int, bits: int, pixels: bytes, *, photometric: int = 1, sample_format: int = 1) -> bytes:
    """A plain grey TIFF. `photometric` 1: black is zero, 0: white is. `sample_format` 1: unsigned, 2: signed."""
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, photometric),
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(pixels)),
        (339, sample_format),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory


def test_a_tiff_where_white_is_zero_is_inverted() -> None:
    shallow = tiff(3, 1, 8, bytes([0, 1, 255]), photometric=0)
    deep = tiff(3, 1, 16, struct.pack("<3H", 0, 257, 65535), photometric=0)
    for data in (shallow, deep):
        assert decode(data, LIMIT)[0, :, 0].tolist() == [255, 254, 0]


def test_twelve_bits_are_scaled_by_their_own_range() -> None:
    # two pixels in three bytes, high nibbles first: 0xfff, 0x800
    assert decode(tiff(2, 1, 12, b"\xff\xf8\x00"), LIMIT)[0, :, 0].tolist() == [255, 128]


def test_colour_of_sixteen_bits_gives_its_high_byte() -> None:
    row = b"\0" + struct.pack(">3H", 0x12FF, 0x8000, 0xFFFF)
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    assert decode(data, LIMIT)[0, 0].tolist() == [0x12, 0x80, 0xFF]


def test_half_transparency_is_mixed_with_white() -> None:
    half = Image.new("RGBA", (4, 4), (200, 0, 100, 128))
    np.testing.assert_allclose(decode(encoded(half), LIMIT)[0, 0], (227, 127, 177), atol=1)
    grey = Image.new("LA", (4, 4), (0, 128))
    np.testing.assert_allclose(decode(encoded(grey), LIMIT)[0, 0], 127, atol=1)
    opaque = Image.fromarray(np.dstack([SCENE, np.full(SCENE.shape[:2], 255, np.uint8)]))
    np.testing.assert_array_equal(decode(encoded(opaque), LIMIT), SCENE)


def test_a_colour_key_is_transparency() -> None:
    data = encoded(Image.new("RGB", (4, 4), (10, 20, 30)), transparency=(10, 20, 30))
    assert (decode(data, LIMIT) == 255).all()


def test_transparency_lies_on_white() -> None:
    rgba = np.dstack([SCENE, np.zeros(SCENE.shape[:2], np.uint8)])
    assert (decode(encoded(Image.fromarray(rgba)), LIMIT) == 255).all()
    palette = Image.fromarray(SCENE).quantize(16)
    assert decode(encoded(palette, transparency=palette.getpixel((0, 0))), LIMIT)[0, 0].tolist() == [255, 255, 255]


def test_palette_lab_and_cmyk_become_rgb() -> None:
    palette = Image.fromarray(SCENE).quantize(16)
    np.testing.assert_array_equal(decode(encoded(palette), LIMIT), np.asarray(palette.convert("RGB")))
    colour = Image.new("RGB", (8, 8), (200, 50, 90))
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(colour, *profiles, outputMode="LAB")
    np.testing.assert_allclose(decode(encoded(lab, "TIFF"), LIMIT)[0, 0], (200, 50, 90), atol=2)
    blue = Image.new("RGB", (32, 32), (10, 20, 240)).convert("CMYK")
    got = decode(encoded(blue, "JPEG", quality=95), LIMIT)
    assert got[16, 16, 2] > 200
    assert got[16, 16, 0] < 60


def adam7(pixels: np.ndarray) -> bytes:
    """An interlaced PNG of pixels uint8 [H,W,3] (Pillow does not write them)."""
    rows = b""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    for top, left, down, across in passes:
        rows += b"".join(b"\0" + row.tobytes() for row in pixels[top::down, left::across] if row.size)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 1)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_interlaced_png_is_read() -> None:
    np.testing.assert_array_equal(decode(adam7(SCENE), LIMIT), SCENE)


def test_progressive_jpeg_is_the_same_picture() -> None:
    image = Image.fromarray(SCENE)
    baseline, progressive = (encoded(image, "JPEG", progressive=progressive) for progressive in (False, True))
    assert b"\xff\xc2" in progressive
    np.testing.assert_array_equal(decode(progressive, LIMIT), decode(baseline, LIMIT))


def test_an_all_black_picture_stays_black() -> None:
    assert (decode(encoded(Image.new("RGB", (8, 8))), LIMIT) == 0).all()


@pytest.mark.parametrize(
    ("format", "options"), [("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {}), ("MPO", {"quality": 95})]
)
def test_the_first_of_several_frames_is_read(
    format: str, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    for reader in (Image.Image, ImageFile, *ImageFile.__subclasses__()):
        monkeypatch.setattr(reader, "seek", None)
    np.testing.assert_allclose(decode(data, LIMIT)[4, 4], (255, 0, 0), atol=3)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_a_truncated_picture_is_unreadable(format: str) -> None:
    data = encoded(Image.fromarray(np.tile(SCENE, (8, 8, 1))), format)
    with pytest.raises(UnreadableImage):
        decode(data[: len(data) // 2], LIMIT)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_a_picture_cut_short_anywhere_is_unreadable_or_whole(format: str) -> None:
    data = encoded(Image.fromarray(SCENE), format)
    whole = decode(data, LIMIT)
    for length in range(1, len(data), max(1, len(data) // 60)):
        try:
            np.testing.assert_array_equal(decode(data[:length], LIMIT), whole)  # only metadata was lost
        except UnreadableImage:
            continue


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


@pytest.mark.parametrize(("bits", "sample_format"), [(16, 2), (32, 1), (32, 2)])
def test_integers_of_unknown_range_are_refused_even_when_black(bits: int, sample_format: int) -> None:
    with pytest.raises(UnreadableImage, match="integers"):
        decode(tiff(1, 1, bits, bytes(bits // 8), sample_format=sample_format), LIMIT)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP", "JPEG"])
def test_a_bomb_is_refused_by_its_header(format: str) -> None:
    data = encoded(Image.new("1" if format in ("PNG", "BMP", "TIFF") else "L", (5000, 3000)), format)
    for read in (read_header, decode):
        with pytest.raises(TooLarge, match="5000x3000"):
            read(data, 14_999_999)
    assert read_header(data, 15_000_000).width == 5000


@pytest.mark.parametrize("side", [10_000, 16_000, 60_000])
def test_no_limit_but_our_own_speaks(side: int) -> None:
    """10,000 px a side lies between Pillow's warning and its error, 16,000 and more beyond its error."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    with pytest.raises(TooLarge, match=f"limit is {LIMIT}"):
        read_header(data, LIMIT)
    assert read_header(data, 2**40).width == side


def test_threads_decode_alike() -> None:
    pictures = [encoded(Image.fromarray(np.roll(SCENE, shift, axis=1)), "PNG") for shift in range(24)]
    with ThreadPoolExecutor(8) as pool:
        for shift, got in enumerate(pool.map(lambda data: decode(data, LIMIT), pictures)):
            np.testing.assert_array_equal(got, np.roll(SCENE, shift, axis=1))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=300)
@given(st.binary(max_size=300), st.sampled_from(["PNG", "JPEG", "BMP", "TIFF", "WEBP"]), st.integers(0, 2000))
def test_damage_never_raises_anything_unexpected(noise: bytes, format: str, place: int) -> None:
    data = bytearray(encoded(Image.fromarray(SCENE), format))
    place %= len(data)
    data[place : place + len(noise)] = noise
    try:
        header = read_header(bytes(data), 100_000)
        got = decode(bytes(data), 100_000)
    except FlawscribeError:
        return
    assert got.dtype == np.uint8
    assert got.shape == (header.height, header.width, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_a_jpeg_is_decoded_at_a_fraction_of_its_size(scale: int, orientation: int) -> None:
    smooth = np.asarray(Image.fromarray(SCENE[:5, :8]).resize((64, 40), Image.Resampling.BICUBIC))
    data = encoded(Image.fromarray(smooth), "JPEG", quality=95, exif=exif_of(orientation))
    whole, small = decode(data, LIMIT), decode(data, LIMIT, jpeg_scale=scale)
    assert small.shape == (whole.shape[0] // scale, whole.shape[1] // scale, 3)
    averaged = whole.reshape(small.shape[0], scale, small.shape[1], scale, 3).mean(axis=(1, 3))
    assert np.abs(small - averaged).mean() < 6  # the same picture, the same way up


def test_other_formats_are_decoded_whole() -> None:
    for kind in ("PNG", "BMP", "TIFF", "WEBP"):
        data = encoded(Image.fromarray(SCENE), kind)
        np.testing.assert_array_equal(decode(data, LIMIT, jpeg_scale=8), decode(data, LIMIT))


def test_a_scale_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="60x40"):
        decode(encoded(Image.fromarray(SCENE), "JPEG"), LIMIT, jpeg_scale=8)


def test_a_jpeg_cut_short_is_unreadable_at_any_scale() -> None:
    data = encoded(Image.fromarray(np.tile(SCENE, (8, 8, 1))), "JPEG")
    with pytest.raises(UnreadableImage):
        decode(data[: len(data) // 2], LIMIT, jpeg_scale=4)
