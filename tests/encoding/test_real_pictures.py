"""Pictures as people have them: each is accepted and shown as a browser shows it, upright and in its colors."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable
from functools import partial

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from promptreel.encoding import heif
from promptreel.encoding.decoder import Decoder
from promptreel.encoding.decoding import check_init, decode_init
from promptreel.encoding.inits import read_init
from promptreel.errors import InitUnusable
from tests.encoding.heif_files import Item, build_heif, grid, heic_head, ispe, tile
from tests.encoding.quarters import (
    COLOURS,
    HEIGHT,
    SRGB_PROFILE,
    SWAPPED,
    TO_BT2020,
    TO_P3,
    WHITE,
    WIDTH,
    as_stored,
    chunk,
    exif,
    make_quarters,
    profile,
    raw_png,
    read_quarters,
    save,
    to_light,
    to_pq,
    with_chunk,
)

heif.register()

EXACT, HDR = 14, 36
"""How far a color may be off. HDR may be further: its highlights are rolled off, and 8 bits of it are coarse."""
GREYS = [(value,) * 3 for value in (20, 90, 160, 230)]
CLEAR = [WHITE, *COLOURS[1:]]
BLEND = [tuple(round(0.5 * value + 0.5 * 255) for value in COLOURS[0]), *COLOURS[1:]]
PICTURE = make_quarters()
GREY = make_quarters(GREYS)
HIDDEN = make_quarters([(*COLOURS[0], 0), *((*colour, 255) for colour in COLOURS[1:])])
HALF = make_quarters([(*COLOURS[0], 128), *((*colour, 255) for colour in COLOURS[1:])])


LIGHT = to_light(PICTURE.astype(float))
P3 = (255 * (LIGHT @ TO_P3.T) ** (1 / 2.2)).round().astype(np.uint8)
PQ = (255 * to_pq(203 * LIGHT @ TO_BT2020.T)).round().astype(np.uint8)
TURN_LEFT_THRICE, MIRROR = b"\0\0\0\x09irot\3", b"\0\0\0\x09imir\1"


def image(pixels: np.ndarray, mode: str | None = None) -> Image.Image:
    picture = Image.fromarray(pixels)
    return picture.convert(mode) if mode else picture


def palette(**options: object) -> bytes:
    return save(image(PICTURE).quantize(4), "PNG", **options)


def hidden_in_palette() -> bytes:
    picture = image(PICTURE).quantize(4)
    return save(picture, "PNG", transparency=picture.getpixel((0, 0)))


def grey_16(clear: bool = False) -> bytes:
    """GREY in 16 bits; with `clear`, its darkest value is transparent."""
    before = chunk(b"tRNS", struct.pack(">H", 20 * 257)) if clear else b""
    return raw_png(GREY[..., :1].astype(int) * 257, colour_type=0, depth=16, before=before)


def grey_and_alpha(depth: int) -> bytes:
    alpha = make_quarters([(0,), (255,), (255,), (255,)])
    both = np.concatenate([GREY[..., :1], alpha], axis=2).astype(int)
    return raw_png(both * (257 if depth == 16 else 1), colour_type=4, depth=depth)


def apng() -> bytes:
    return save(image(PICTURE), "PNG", save_all=True, append_images=[image(SWAPPED)], duration=100)


def broken_crc() -> bytes:
    return with_chunk(chunk(b"tEXt", b"Comment\0x", crc=1) + chunk(b"eXIf", exif(6)[6:], crc=1) + chunk(b"iCCP", b"x", crc=1))


def with_profile(icc: bytes) -> bytes:
    return with_chunk(chunk(b"iCCP", b"monitor\0\0" + zlib.compress(icc)))


def cmyk(*, adobe: bool = True, **options: object) -> bytes:
    data = save(image(PICTURE, "CMYK"), "JPEG", quality=95, **options)
    at = data.index(b"\xff\xee")
    return data if adobe else data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]


def jpeg(pixels: np.ndarray = PICTURE, mode: str | None = None, **options: object) -> bytes:
    return save(image(pixels, mode), "JPEG", quality=95, subsampling=0, **options)


def with_app1(content: bytes) -> bytes:
    data = jpeg()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + data[2:]


def mpo() -> bytes:
    """A JPEG of two pictures, as phones with two lenses or with gain maps write it."""
    return save(image(PICTURE), "MPO", save_all=True, append_images=[image(SWAPPED)], quality=95, subsampling=0)


def webp(pixels: np.ndarray = PICTURE, **options: object) -> bytes:
    return save(image(pixels), "WEBP", lossless=True, **options)


def avif(pixels: np.ndarray = PICTURE, **options: object) -> bytes:
    return save(image(pixels), "AVIF", quality=95, subsampling="4:4:4", speed=10, **options)


def retag_avif(pixels: np.ndarray, *, primaries: int, transfer: int) -> bytes:
    """Replaces the color tags: Pillow always writes those of sRGB, 1 and 13."""
    data = avif(pixels)
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def heic(pixels: np.ndarray = PICTURE, mode: str | None = None, **options: object) -> bytes:
    return save(image(pixels, mode), "HEIF", quality=90, chroma=444, **options)


def heic_10(pixels: np.ndarray = PICTURE, *, tags: tuple[int, int] = (1, 13)) -> bytes:
    """10 bits a channel."""
    file = io.BytesIO()
    data = (pixels / 255 * 65535).round().astype(np.uint16).tobytes()
    options = {"color_primaries": tags[0], "transfer_characteristics": tags[1]}
    pillow_heif.from_bytes("RGB;16", (WIDTH, HEIGHT), data).save(file, quality=90, chroma=444, **options)
    return file.getvalue()


def heic_of_two(primary: int) -> bytes:
    file = io.BytesIO()
    image(PICTURE).save(
        file, "HEIF", save_all=True, append_images=[image(SWAPPED)], primary_index=primary, quality=90, chroma=444
    )
    return file.getvalue()


def phones_grid(colours: list[tuple[int, ...]] = COLOURS, properties: list[bytes] = ()) -> bytes:
    """Four tiles that are pictures of their own, as phones write them."""
    tiles = [tile(colour) for colour in colours]
    return build_heif([*tiles, grid(2, 2, size=(128, 128), made_of=[1, 2, 3, 4], properties=properties)], primary=5)


def gif_with_a_hole() -> bytes:
    return save(image(HIDDEN), "GIF")


def animated(file_format: str) -> bytes:
    return save(image(PICTURE), file_format, save_all=True, append_images=[image(SWAPPED)], duration=100, lossless=True)


pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's warning about the broken files
Build = Callable[[], bytes]
TABLE: dict[str, tuple[Build, list]] = {
    "png": (partial(save, PICTURE, "PNG"), COLOURS),
    "png_with_alpha": (partial(save, HIDDEN, "PNG"), CLEAR),
    "png_half_clear": (partial(save, HALF, "PNG"), BLEND),
    "png_palette": (palette, COLOURS),
    "png_palette_of_2_bits": (partial(palette, bits=2), COLOURS),
    "png_palette_with_a_clear_colour": (hidden_in_palette, CLEAR),
    "png_colour_that_is_clear": (
        lambda: raw_png(PICTURE, colour_type=2, before=chunk(b"tRNS", struct.pack(">HHH", *COLOURS[0]))),
        CLEAR,
    ),
    "png_grey": (partial(save, GREY[..., 0], "PNG"), GREYS),
    "png_1_bit": (lambda: save(image(GREY, "L").point(lambda v: 255 * (v > 128), "1"), "PNG"), [(0,) * 3] * 2 + [WHITE] * 2),
    "png_grey_16": (grey_16, GREYS),
    "png_grey_16_with_a_clear_one": (partial(grey_16, clear=True), [WHITE, *GREYS[1:]]),
    "png_grey_and_alpha": (partial(grey_and_alpha, 8), [WHITE, *GREYS[1:]]),
    "png_grey_and_alpha_16": (partial(grey_and_alpha, 16), [WHITE, *GREYS[1:]]),
    "png_16": (lambda: raw_png(PICTURE.astype(int) * 257, colour_type=2, depth=16), COLOURS),
    "png_with_alpha_16": (lambda: raw_png(HIDDEN.astype(int) * 257, colour_type=6, depth=16), CLEAR),
    "png_animated": (apng, COLOURS),
    "png_profile": (lambda: save(SWAPPED, "PNG", icc_profile=profile()), COLOURS),
    "png_profile_and_alpha": (lambda: save(HIDDEN[..., [2, 1, 0, 3]], "PNG", icc_profile=profile()), CLEAR),
    "png_profile_and_palette": (lambda: save(image(SWAPPED).quantize(4), "PNG", icc_profile=profile()), COLOURS),
    "png_profile_of_colours_on_grey": (lambda: save(GREY[..., 0], "PNG", icc_profile=profile()), GREYS),
    "png_profile_srgb": (lambda: with_profile(SRGB_PROFILE), COLOURS),
    "png_profile_cut_off": (lambda: with_profile(profile()[:200]), COLOURS),
    "png_profile_of_nothing": (lambda: with_profile(b""), COLOURS),
    "png_profile_not_packed": (lambda: with_chunk(chunk(b"iCCP", b"monitor\0\0hello")), COLOURS),
    "png_profile_of_2_megabytes": (lambda: with_profile(profile() + bytes(2 << 20)), [colour[::-1] for colour in COLOURS]),
    "png_profile_of_50_megabytes": (lambda: with_profile(profile() + bytes(50 << 20)), COLOURS),
    "png_text_of_5_megabytes": (lambda: with_chunk(chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(5 << 20)))), COLOURS),
    "png_exif_that_is_none": (lambda: with_chunk(chunk(b"eXIf", b"\0\x08\0\2\1\x12\0\3\0\1")), COLOURS),
    "png_exif_cut_off": (lambda: with_chunk(chunk(b"eXIf", exif(6)[6:20])), COLOURS),
    "png_notes_with_a_wrong_sum": (broken_crc, COLOURS),
    "jpeg": (jpeg, COLOURS),
    "jpeg_progressive": (partial(jpeg, progressive=True), COLOURS),
    "jpeg_grey": (lambda: save(GREY[..., 0], "JPEG", quality=95), GREYS),
    "jpeg_grey_with_a_profile": (lambda: save(GREY[..., 0], "JPEG", quality=95, icc_profile=profile()), GREYS),
    "jpeg_cmyk": (cmyk, COLOURS),
    "jpeg_cmyk_that_does_not_say_adobe": (partial(cmyk, adobe=False), COLOURS),
    "jpeg_cmyk_with_a_profile_of_rgb": (partial(cmyk, icc_profile=SRGB_PROFILE), COLOURS),
    "jpeg_profile": (partial(jpeg, SWAPPED, icc_profile=profile()), COLOURS),
    "jpeg_profile_broken": (partial(jpeg, icc_profile=b"hello"), COLOURS),
    "jpeg_lying": (lambda: jpeg(as_stored(PICTURE, 6), exif=exif(6)), COLOURS),
    "jpeg_exif_that_is_none": (lambda: with_app1(b"Exif\0\0hello, world"), COLOURS),
    "jpeg_exif_cut_off": (lambda: with_app1(exif(6)[:14]), COLOURS),
    "jpeg_orientation_9": (partial(jpeg, exif=exif(9)), COLOURS),
    "jpeg_of_two_pictures": (mpo, COLOURS),
    "jpeg_with_a_phones_video_behind": (lambda: jpeg() + b"\0\0\0\x18ftypmp42" + bytes(10_000), COLOURS),
    "webp": (webp, COLOURS),
    "webp_lossy": (lambda: save(PICTURE, "WEBP", quality=95), COLOURS),
    "webp_with_alpha": (partial(webp, HIDDEN), CLEAR),
    "webp_animated": (partial(animated, "WEBP"), COLOURS),
    "webp_lying": (lambda: webp(as_stored(PICTURE, 8), exif=exif(8)), COLOURS),
    "webp_exif_that_is_none": (partial(webp, exif=b"Exif\0\0hello, world"), COLOURS),
    "webp_profile": (partial(webp, SWAPPED, icc_profile=profile()), COLOURS),
    "avif": (avif, COLOURS),
    "avif_with_alpha": (partial(avif, HIDDEN), CLEAR),
    "avif_lying": (lambda: avif(as_stored(PICTURE, 6), exif=exif(6)), COLOURS),
    "avif_profile": (partial(avif, SWAPPED, icc_profile=profile()), COLOURS),
    "avif_animated": (
        lambda: save(image(PICTURE), "AVIF", save_all=True, append_images=[image(SWAPPED)], duration=100, speed=10),
        COLOURS,
    ),
    "avif_tagged_as_p3": (lambda: retag_avif(P3, primaries=12, transfer=13), COLOURS),
    "avif_tagged_as_hdr": (lambda: retag_avif(PQ, primaries=9, transfer=16), COLOURS),
    "heic": (heic, COLOURS),
    "heic_by_its_family": (lambda: heic().replace(b"ftypheic", b"ftypmif1"), COLOURS),
    "heic_halved": (lambda: save(PICTURE, "HEIF", quality=90), COLOURS),
    "heic_grey": (lambda: save(GREY[..., 0], "HEIF", quality=90), GREYS),
    "heic_with_alpha": (partial(heic, HIDDEN), CLEAR),
    "heic_half_clear": (partial(heic, HALF), BLEND),
    "heic_half_clear_multiplied": (partial(heic, HALF, "RGBa"), BLEND),
    "heic_10_bit": (heic_10, COLOURS),
    "heic_grid": (phones_grid, COLOURS),
    "heic_grid_lying": (lambda: phones_grid([COLOURS[i] for i in (1, 3, 0, 2)], [TURN_LEFT_THRICE]), COLOURS),
    "heic_grid_mirrored": (lambda: phones_grid([COLOURS[i] for i in (1, 0, 3, 2)], [MIRROR]), COLOURS),
    "heic_of_two_the_first": (partial(heic_of_two, 0), COLOURS),
    "heic_of_two_the_second": (partial(heic_of_two, 1), [colour[::-1] for colour in COLOURS]),
    "heic_profile": (partial(heic, SWAPPED, icc_profile=profile()), COLOURS),
    "heic_profile_broken": (partial(heic, icc_profile=b"hello"), COLOURS),
    "heic_profile_and_alpha": (lambda: heic(HIDDEN[..., [2, 1, 0, 3]], icc_profile=profile()), CLEAR),
    "heic_tagged_as_p3": (lambda: heic(P3, color_primaries=12, transfer_characteristics=13), COLOURS),
    "heic_10_bit_hdr": (lambda: heic_10(PQ, tags=(9, 16)), COLOURS),
    "heic_exif_that_is_none": (partial(heic, exif=b"Exif\0\0hello, world"), COLOURS),
    **{
        f"heic_orientation_{value}": (lambda value=value: heic(as_stored(PICTURE, value), exif=exif(value)), COLOURS)
        for value in range(2, 9)
    },
    "gif": (partial(save, PICTURE, "GIF"), COLOURS),
    "gif_with_a_hole": (gif_with_a_hole, CLEAR),
    "gif_animated": (partial(animated, "GIF"), COLOURS),
    **{
        f"png_orientation_{value}": (lambda value=value: save(as_stored(PICTURE, value), "PNG", exif=exif(value)), COLOURS)
        for value in range(1, 9)
    },
}


@pytest.mark.parametrize("name", TABLE)
def test_picture_is_shown_as_a_browser_shows_it(name: str) -> None:
    build, wanted = TABLE[name]
    init = read_init(build(), ["image"])
    check_init(init)
    ((shown, times),) = decode_init(init, num_frames=3, fps=8, width=WIDTH, height=HEIGHT)

    assert times == 3
    far = np.abs(np.subtract(read_quarters(shown), wanted)).max()
    assert far <= (HDR if "hdr" in name else EXACT), (read_quarters(shown), wanted)


@pytest.mark.parametrize(
    "name",
    [
        "png_profile_and_alpha",
        "jpeg_profile",
        "webp_profile",
        "png_exif_that_is_none",
        "jpeg_cmyk",
        "avif_lying",
        "avif_with_alpha",
        "avif_tagged_as_p3",
        "heic_grid",
        "heic_half_clear_multiplied",
        "heic_orientation_6",
        "heic_10_bit_hdr",
    ],
)
def test_decoder_process_shows_the_same_whole_and_cropped(decoder: Decoder, name: str) -> None:
    build, wanted = TABLE[name]
    init = read_init(build(), ["image"])
    decoder.check(init)
    clip = decoder.decode(init, num_frames=1, fps=8, width=WIDTH, height=HEIGHT)
    again = decoder.decode(init, num_frames=1, fps=8, width=WIDTH, height=HEIGHT)
    square = decoder.crop(init)
    cropped = decoder.decode(square, num_frames=1, fps=8, width=HEIGHT, height=HEIGHT)

    assert np.array_equal(clip.frames, again.frames)
    assert read_init(square.data, ["image"]).ending == square.ending
    for frame in (clip.frames[0], cropped.frames[0]):
        far = np.abs(np.subtract(read_quarters(frame), wanted)).max()
        assert far <= (HDR if "hdr" in name else EXACT), read_quarters(frame)


def test_avif_of_many_pixels_is_refused_before_it_is_decoded(decoder: Decoder) -> None:
    large = save(Image.new("RGB", (4000, 4000)), "AVIF", speed=10, quality=10)

    with pytest.raises(InitUnusable, match="must not be greater than 12 million pixels"):
        decoder.check(read_init(large, ["image"]))


def test_largest_accepted_avif_fits_the_decoders_memory(decoder: Decoder) -> None:
    clear = save(Image.new("RGBA", (3500, 3500), (200, 40, 40, 128)), "AVIF", speed=10, quality=10)
    decoder.check(read_init(clear, ["image"]))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (save(PICTURE, "TIFF"), "TIFF: save it as PNG or JPEG."),
        (save(PICTURE, "BMP"), "BMP: save it as PNG or JPEG."),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG: save it as PNG."),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html>", "a web page: use the address of the file itself."),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL: save it as PNG or JPEG."),
        (b"RIFF\0\0\0\0AVI LIST", "AVI: save it as MP4."),
        (b"\x47" + bytes(187) + b"\x47", "an MPEG program or transport stream: save it as MP4."),
        (b"hello", "."),
    ],
)
def test_unsupported_types_are_refused_by_name(data: bytes, what: str) -> None:
    for kinds in (["image"], ["video", "image"]):
        with pytest.raises(InitUnusable, match="The init must be one of ") as told:
            read_init(data, kinds)
        assert str(told.value).endswith(what)


def test_truncated_png_is_refused() -> None:
    whole = save(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8), "PNG")
    for size in (20, 34, 60, len(whole) // 2):
        with pytest.raises(InitUnusable, match="cannot be decoded"):
            check_init(read_init(whole[:size], ["image"]))


def test_gray_profile_is_applied() -> None:
    """A linear gray profile makes a value much lighter than in sRGB."""
    curve = b"curv\0\0\0\0" + struct.pack(">I", 0)
    tags = {b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54060), b"kTRC": curve}
    start = 132 + 12 * len(tags)
    table = struct.pack(">I", len(tags)) + b"".join(
        name + struct.pack(">II", start + sum(len(value) for value in list(tags.values())[:number]), len(tag))
        for number, (name, tag) in enumerate(tags.items())
    )
    body = b"".join(tags.values())
    head = struct.pack(">I", start + len(body)) + b"\0\0\0\0\x02\x40\0\0mntrGRAYXYZ " + bytes(12) + b"acsp" + bytes(28)
    icc = (head + struct.pack(">iii", 63190, 65536, 54060)).ljust(128, b"\0") + table + body
    file = io.BytesIO()
    Image.new("L", (32, 32), 55).save(file, "PNG", icc_profile=icc)
    ((shown, _),) = decode_init(read_init(file.getvalue(), ["image"]), num_frames=1, fps=8, width=16, height=16)

    assert np.abs(shown.astype(int) - 128).max() <= 3  # 1.055 * (55 / 255) ** (1 / 2.4) - 0.055


def test_heic_as_a_video_is_told_that_it_is_a_picture() -> None:
    with pytest.raises(InitUnusable, match="This is HEIC, a picture: send it as an image, or save it as MP4"):
        read_init(heic(), ["video"])
    assert read_init(heic(), ["video", "image"]).kind == "image"


@pytest.mark.parametrize("brand", [b"heic", b"heix", b"mif1", b"hevc", b"msf1"])
def test_heic_is_refused_by_name_without_the_extra(brand: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    for kinds in (["image"], ["video", "image"]):
        with pytest.raises(InitUnusable) as told:
            read_init(heic_head(brand), kinds)
        assert ". This is HEIC, which this server cannot read: save it as JPEG or PNG." in str(told.value)
        assert "pip install 'promptreel[heif]'" in str(told.value)
        assert "image/heic" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("cut off in its head", lambda: phones_grid()[:300]),
        ("cut off in its last tile", lambda: phones_grid()[:-20]),
        ("a tile is missing", lambda: build_heif([tile(), grid(1, 2, size=(128, 64), made_of=[1, 3])], primary=2)),
        ("made of itself", lambda: build_heif([tile(), grid(1, 1, size=(64, 64), made_of=[2])], primary=2)),
        ("its picture is another's settings", lambda: build_heif([tile(), Item(b"hvc1", b"", [ispe(64, 64)])], primary=2)),
    ],
)
def test_heic_with_a_damaged_primary_picture_is_refused_even_if_a_tile_is_intact(
    decoder: Decoder, name: str, build: Callable[[], bytes]
) -> None:
    with pytest.raises(InitUnusable, match="cannot be decoded"):
        decoder.check(read_init(build(), ["image"]))
