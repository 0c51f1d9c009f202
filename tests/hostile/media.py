"""Hostile pictures and videos: small files that claim to be huge, and files that are not what they claim to be."""

from __future__ import annotations

import io
import struct
import zlib
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numpy as np
from PIL import Image

from tests.encoding.files import encode_image, encode_video, make_bars, make_greys
from tests.encoding.heif_files import Item, build_heif, clap, encode_tile, grid, heic_head, ispe, tile
from tests.flows.service import SHORT, TEXT2VIDEO, Service
from tests.hostile.case import HostileCase
from tests.hostile.containers import (
    FTYP,
    H264,
    Mp4,
    block,
    box,
    chunk,
    cluster,
    deflate_zeros,
    element,
    encode_h264,
    full_box,
    png,
    repeat_frames,
    resize_vp8,
    vp8_frames,
    webm,
)

UPLOAD = "/api/v6/base64_to_url"
VIDEOS = "/v1/videos"
Build = Callable[[], bytes]


def data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{b64encode(data).decode()}"


def refuse(service: Service, *, media_type: str, build: Build, why: str) -> None:
    """As `init_image` or `init_video`, it is refused by the field's name before a job exists."""
    field = f"init_{media_type.partition('/')[0]}" if media_type != "image/gif" else "init_video"
    answer = service.ask(**SHORT, **{field: data_uri(media_type, build())})
    assert answer["status"] == "error", answer
    assert why in answer["message"][field][0], answer


def serve(service: Service, *, media_type: str, build: Build, field: str) -> None:
    """The file is odd, but makes a video."""
    service.make(**SHORT, **{field: data_uri(media_type, build())})


def refuse_upload(service: Service, *, media_type: str, build: Build, why: str) -> None:
    answer = service.client.post(service.url + UPLOAD, json={"base64_string": data_uri(media_type, build())}).json()
    assert answer["status"] == "error", answer
    assert why in answer["message"]["base64_string"][0], answer


def refuse_reference(service: Service, *, media_type: str, build: Build, why: str) -> None:
    """As a file in a form; its first bytes tell its type."""
    form = {"prompt": "a red ball", "size": "96x96", "seconds": "1"}
    answer = service.client.post(service.url + VIDEOS, data=form, files={"input_reference": ("a", build(), media_type)})
    assert answer.status_code == 400, answer.text
    assert why in answer.json()["error"]["message"], answer.text


# Pictures


def webp_of_one_colour(width: int, height: int) -> bytes:
    """Lossless, in 34 bytes: five Huffman codes of one symbol each, so pixels take no bits."""
    head = (width - 1) | (height - 1) << 14
    bits = head | 0b0001_0001_0001_0001_0001 << (28 + 1 + 3 + 1 + 1 + 1)
    data = b"\x2f" + bits.to_bytes(13, "little")
    return b"RIFF" + struct.pack("<I", len(data) + 12) + b"WEBPVP8L" + struct.pack("<I", len(data)) + data


def animated_webp(frames: int) -> bytes:
    """Each frame is as large as the picture, but takes a few bytes."""
    frame = webp_of_one_colour(1024, 1024)[12:]
    place = struct.pack("<I", 0)[:3] * 2 + struct.pack("<I", 1023)[:3] * 2 + struct.pack("<I", 40)[:3] + b"\0"
    frames_data = (b"ANMF" + struct.pack("<I", len(place + frame)) + place + frame) * frames
    head = b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + struct.pack("<I", 1023)[:3] * 2
    body = b"WEBP" + head + b"ANIM" + struct.pack("<IIH", 6, 0, 0) + frames_data
    return b"RIFF" + struct.pack("<I", len(body)) + body


@cache
def progressive_jpeg(side: int, kilobytes: int) -> bytes:
    """Repeats the last, refining scan: each goes over the whole picture."""
    plain = encode_image(np.full((64, 64, 3), 90, np.uint8), "JPEG", progressive=True)
    sized = plain.replace(struct.pack(">HH", 64, 64), struct.pack(">HH", side, side), 1)
    last = sized.rindex(b"\xff\xda")
    scan = sized[last:-2]
    return sized[:-2] + scan * ((kilobytes * 1024 - len(sized)) // len(scan)) + b"\xff\xd9"


def ask_all_at_once(service: Service) -> None:
    uri = data_uri("image/jpeg", progressive_jpeg(4096, 63))

    def ask(_number: int) -> dict[str, Any]:
        return service.client.post(service.url + TEXT2VIDEO, json=SHORT | {"init_image": uri}).json()

    with ThreadPoolExecutor(45) as threads:
        answers = list(threads.map(ask, range(45)))
    assert all("in more than 64 scans" in answer["message"]["init_image"][0] for answer in answers), answers


def exif_bomb() -> bytes:
    """Two hundred tags that each claim two billion values."""
    tags = b"".join(struct.pack(">HHII", 0x100 + number, 12, 0x7FFFFFFF, 8) for number in range(200))
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 200) + tags + bytes(4)
    plain = encode_image(make_bars(), "JPEG")
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + plain[2:]


def apng(frames: int) -> bytes:
    """An animated PNG; its frames follow the default image."""
    control = [struct.pack(">IIIIIHHBB", number, 64, 16, 0, 0, 1, 25, 0, 0) for number in range(frames)]
    data = zlib.compress(bytes(16 * (1 + 64 * 3)))
    more = b"".join(chunk(b"fcTL", each) + chunk(b"fdAT", each[:4] + data) for each in control)
    plain = encode_image(make_bars())
    at = plain.index(b"IDAT") - 4
    return plain[:at] + chunk(b"acTL", struct.pack(">II", frames, 0)) + plain[at:-12] + more + plain[-12:]


def compressed_chunk(name: bytes, megabytes: int) -> bytes:
    """A valid picture after a text or profile that decompresses to a thousand times its size."""
    plain = encode_image(make_bars())
    return plain[:33] + chunk(name, b"a\0\0" + deflate_zeros(megabytes << 20)) + plain[33:]


def gif(frames: int, *, width: int, height: int, canvas: tuple[int, int] | None = None) -> bytes:
    """Of one color, so that each frame takes few bytes."""
    plain = encode_image(np.zeros((height, width, 3), np.uint8), "GIF")
    head = plain[:6] + struct.pack("<HH", *(canvas or (width, height))) + plain[10 : 13 + 3 * 2 ** (1 + (plain[10] & 7))]
    frame = b"!\xf9\4\0\4\0\0\0" + plain[plain.index(b",", len(head)) : -1]
    return head + frame * frames + b";"


def tiff() -> bytes:
    file = io.BytesIO()
    Image.fromarray(make_bars()).save(file, "TIFF")
    return file.getvalue()


def avif() -> bytes:
    """Of one color: 16 million pixels in less than a kilobyte."""
    file = io.BytesIO()
    Image.new("RGB", (4000, 4000), "red").save(file, "AVIF", speed=10, quality=10)
    return file.getvalue()


def heic_of_another_size(width: int, height: int) -> bytes:
    """It claims this size, but is 64x64 pixels."""
    return build_heif([tile(says=(width, height))], primary=1)


def heic_larger_than_it_says() -> bytes:
    return build_heif([tile((90, 90, 90), side=2048, says=(64, 64))], primary=1)


def heic_shown_in_part() -> bytes:
    """Shows two pixels of a huge picture."""
    settings, data = encode_tile((200, 40, 40))
    return build_heif([Item(b"hvc1", data, [settings, ispe(30_000, 30_000), clap(2, 2)])], primary=1)


def heic_of_tiles(side: int, *, size: tuple[int, int]) -> bytes:
    """A grid of the same tile, repeated."""
    return build_heif([tile(), grid(side, side, size=size, made_of=[1] * side**2)], primary=2)


def heic_of_grids(depth: int) -> bytes:
    """Each grid holds the one before four times, so the number of tiles quadruples."""
    grids = [grid(2, 2, size=(64, 64), made_of=[number] * 4) for number in range(1, depth + 1)]
    return build_heif([tile(), *grids], primary=depth + 1)


def heic_of_overlays(depth: int) -> bytes:
    """Each overlay holds the one before twice."""
    data = struct.pack(">BB4HHH4h", 0, 0, 0, 0, 0, 65535, 64, 64, 0, 0, 0, 0)
    overlays = [Item(b"iovl", data, [ispe(64, 64)], [number, number]) for number in range(1, depth + 1)]
    return build_heif([tile(), *overlays], primary=depth + 1)


def heic_of_notes(number: int, megabytes: int) -> bytes:
    """This many metadata items that all share the same data."""
    notes = [Item(b"Exif", bytes(megabytes << 20), about=[1]) for _ in range(number)]
    return build_heif([tile(), *notes], primary=1, same_data=True)


def heic_of_pictures(number: int) -> bytes:
    return build_heif([tile(says=(4000, 4000))] * number, primary=number)


# Videos


@cache
def small() -> H264:
    return encode_h264(make_greys(3, 64))


@cache
def black(width: int, height: int) -> H264:
    """A black frame, and a predicted one that changes nothing."""
    return encode_h264(np.zeros((2, height, width, 3), np.uint8))


@cache
def noise() -> H264:
    return encode_h264(np.random.default_rng(0).integers(0, 255, (1, 576, 768, 3), np.uint8), crf=1)


def thirty_million_samples() -> bytes:
    return Mp4(codec=small(), count=30_000_000).build()


def fragments(number: int, samples: int) -> bytes:
    """Each fragment claims samples without describing them."""
    trex = box(b"mvex", full_box(b"trex", struct.pack(">IIIII", 1, 1, 1, 1, 0)))
    trun = full_box(b"trun", struct.pack(">I", samples))
    one = box(b"moof", full_box(b"mfhd", bytes(4)), box(b"traf", full_box(b"tfhd", struct.pack(">I", 1)), trun))
    return Mp4(codec=small(), count=0, more_in_moov=trex, after=one * number).build()


def refers_elsewhere() -> bytes:
    """A QuickTime alias: the samples are said to be in a file on the server."""
    alias = bytes(10) + b"\0" * 140 + struct.pack(">hH", 18, 11) + b"/etc/passwd\0" + struct.pack(">hH", -1, 0)
    return Mp4(codec=small(), sizes=[100], offsets=[0], dref=full_box(b"alis", alias)).build()


def edits(count: int) -> bytes:
    entries = struct.pack(">IiI", 1, 0, 0x10000) * count
    table = box(b"edts", full_box(b"elst", struct.pack(">I", count), entries))
    return repeat_frames(small(), [0, 1, 2], edits=table)


def metadata(megabytes: int) -> bytes:
    """A hundred texts; one claims to be two gigabytes."""
    text = box(b"\xa9cmt", box(b"data", struct.pack(">II", 1, 0), b"a" * (megabytes << 20)))
    lie = struct.pack(">I", 0x7FFFFFF0) + b"\xa9nam" + b"a" * 100
    meta = full_box(b"meta", full_box(b"hdlr", bytes(4), b"mdirappl", bytes(9)), box(b"ilst", text, lie))
    return repeat_frames(small(), [0, 1, 2], more_in_moov=box(b"udta", meta))


def larger_than_it_says() -> bytes:
    """The box says 64x64; the stream itself is 4608x2304 pixels."""
    return repeat_frames(black(4608, 2304), [0], size=(64, 64))


def grows(width: int, height: int) -> bytes:
    """The second frame is larger than the first."""
    first, second = vp8_frames(make_greys(2, 64))
    return webm("V_VP8", 64, 64, cluster(0, block(first)), cluster(40, block(resize_vp8(second, width, height))))


def laced(clusters: int) -> bytes:
    """256 frames of one byte in each block."""
    sizes = b"\xff" + b"\1" * 255
    blocks = [cluster(number, block(sizes + bytes(256), flags=0x82)) for number in range(clusters)]
    return webm("V_VP8", 64, 64, *blocks)


def nested(depth: int) -> bytes:
    """Nested tags, then clusters of unknown size."""
    tag = b""
    for _ in range(depth):
        tag = element(0x67C8, element(0x45A3, b"a"), tag)
    head = webm("V_VP8", 64, 64)
    return head + element(0x1254C367, element(0x7373, tag)) + element(0x1F43B675, size=-1) * 10_000


def audio_only() -> bytes:
    """Its only track is sound."""
    return repeat_frames(small(), [0, 1, 2]).replace(b"vide", b"soun").replace(b"avc1", b"mp4a")


def cover_only() -> bytes:
    """A song's cover: to libavformat it is a video track, but it is a still picture."""
    cover = box(b"covr", box(b"data", struct.pack(">II", 14, 0), encode_image(make_bars())))
    meta = full_box(b"meta", full_box(b"hdlr", bytes(4), b"mdirappl", bytes(9)), box(b"ilst", cover))
    return FTYP + box(b"moov", box(b"udta", meta)) + box(b"mdat", bytes(100))


def two_in_one() -> bytes:
    video = encode_video(make_greys(3), "mp4")
    return video + video


def case(name: str, attack: Callable[..., None], build: Build, **expected: str) -> HostileCase:
    return HostileCase(name, partial(attack, build=build, **expected))


PNG, JPEG, WEBP, GIF = "image/png", "image/jpeg", "image/webp", "image/gif"
MP4, WEBM = "video/mp4", "video/webm"
DAMAGED = "cannot be decoded"
NO_FRAME = "has no frame"
MANY_SCANS = "must not be stored in more than 64 scans"
MANY_FRAMES = "must not be longer than 1800 frames"
MANY_PIXELS = "must not have more than 1658 million pixels in all frames together"
MUCH_MEMORY = "takes more than 250 MB to decode"
LARGE_FRAMES = "must not have more than 4096x2304 pixels"


def million(pixels: int) -> str:
    return f"must not be greater than {pixels} million pixels"


def cases(attack: Callable[..., None], media_type: str, **builds: tuple[Build, str]) -> list[HostileCase]:
    """A case for each name: how its file is built, and why it is refused or which field makes a video of it."""
    told = "field" if attack is serve else "why"
    return [
        HostileCase(name, partial(attack, media_type=media_type, build=build, **{told: text}))
        for name, (build, text) in builds.items()
    ]


PICTURES = [
    HostileCase("jpegs_of_many_scans_at_once", ask_all_at_once),
    *cases(
        refuse,
        PNG,
        nothing=(bytes, "must be one of image/png"),
        png_of_36_clear_megapixels=(partial(png, 6000, 6000, colours=6), million(27)),
        png_of_a_billion_pixels=(partial(png, 60_000, 60_000, rows=b""), million(36)),
    ),
    *cases(
        serve,
        PNG,
        png_of_36_megapixels=(partial(png, 6000, 6000), "init_image"),
        png_of_5000_frames=(partial(apng, 5000), "init_image"),
        png_with_a_text_of_a_gigabyte=(partial(compressed_chunk, b"zTXt", 1024), "init_image"),
        png_with_a_profile_of_a_gigabyte=(partial(compressed_chunk, b"iCCP", 1024), "init_image"),
    ),
    *cases(
        refuse,
        JPEG,
        jpeg_of_many_scans=(partial(progressive_jpeg, 4096, 1000), MANY_SCANS),
        jpeg_of_few_scans=(partial(progressive_jpeg, 5800, 1), million(25)),
    ),
    *cases(refuse_upload, JPEG, jpeg_of_many_scans_uploaded=(partial(progressive_jpeg, 4096, 611), MANY_SCANS)),
    *cases(serve, JPEG, jpeg_with_endless_exif=(exif_bomb, "init_image")),
    *cases(refuse, WEBP, webp_of_36_megapixels=(partial(webp_of_one_colour, 6000, 6000), million(14))),
    *cases(
        serve,
        WEBP,
        webp_of_12_megapixels=(partial(webp_of_one_colour, 4032, 3024), "init_image"),
        webp_of_10000_frames=(partial(animated_webp, 10_000), "init_image"),
    ),
    *cases(
        refuse,
        GIF,
        gif_of_50000_frames=(partial(gif, 50_000, width=16, height=16), MANY_FRAMES),
        gif_of_many_large_frames=(partial(gif, 1800, width=2000, height=1000), MANY_PIXELS),
        gif_on_a_canvas_without_end=(partial(gif, 2, width=8, height=8, canvas=(65535, 65535)), LARGE_FRAMES),
    ),
    *cases(
        serve,
        GIF,
        gif_of_50000_frames_as_picture=(partial(gif, 50_000, width=16, height=16), "init_image"),
        page_behind_a_gif=(lambda: gif(3, width=64, height=64) + b"<script>/*", "init_video"),
    ),
    *cases(refuse_reference, "image/tiff", tiff=(tiff, "This is TIFF: save it as PNG or JPEG.")),
    *cases(
        refuse,
        "image/heic",
        heic_that_says_900_megapixels=(partial(heic_of_another_size, 30_000, 30_000), million(36)),
        heic_that_says_36_megapixels=(partial(heic_of_another_size, 6000, 6000), million(27)),
        heic_that_says_25_megapixels=(partial(heic_of_another_size, 5000, 5000), DAMAGED),
        heic_larger_than_it_says=(heic_larger_than_it_says, DAMAGED),
        heic_shown_in_part=(heic_shown_in_part, DAMAGED),
        heic_of_65025_tiles=(partial(heic_of_tiles, 255, size=(1000, 1000)), DAMAGED),
        heic_of_tiles_without_end=(partial(heic_of_tiles, 31, size=(60_000, 60_000)), million(36)),
        heic_of_overlays=(partial(heic_of_overlays, 40), DAMAGED),
        heic_of_900_notes=(partial(heic_of_notes, 900, 3), DAMAGED),
        heic_of_900_large_pictures=(partial(heic_of_pictures, 900), DAMAGED),
        heic_cut_off=(lambda: heic_of_tiles(2, size=(128, 128))[:-20], DAMAGED),
        heic_of_nothing=(partial(heic_head, b"heic"), DAMAGED),
    ),
    *cases(serve, "image/heic", heic_of_grids_of_grids=(partial(heic_of_grids, 11), "init_image")),
    *cases(refuse_upload, "image/jpeg", heic_of_notes_uploaded=(partial(heic_of_notes, 900, 3), DAMAGED)),
    *cases(refuse_reference, "image/avif", avif_of_16_megapixels=(avif, million(12))),
]

VIDEO_FILES = [
    *cases(
        refuse,
        MP4,
        mp4_of_30_million_samples=(thirty_million_samples, NO_FRAME),
        mp4_of_endless_fragments=(partial(fragments, 20, 10_000_000), MUCH_MEMORY),
        mp4_of_5000_tracks=(lambda: Mp4(codec=small(), count=3, more_tracks=5000).build(), MUCH_MEMORY),
        mp4_of_300000_edits=(partial(edits, 300_000), MANY_FRAMES),
        mp4_of_one_frame_1800_times=(lambda: repeat_frames(noise(), [0] * 1800), "takes more than 8 s of CPU time to decode"),
        mp4_of_large_empty_frames=(lambda: repeat_frames(black(4096, 2304), [0] + [1] * 1799), MANY_PIXELS),
        mp4_larger_than_it_says=(larger_than_it_says, LARGE_FRAMES),
        mp4_cut_off=(lambda: repeat_frames(small(), [0, 1, 2])[:600], DAMAGED),
        mp4_of_sound=(audio_only, "has no video stream"),
        mp4_of_a_cover=(cover_only, "must be in one of av1"),
        playlist_as_mp4=(lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "must be one of video/mp4"),
    ),
    *cases(refuse_reference, MP4, mp4_of_30_million_samples_as_reference=(thirty_million_samples, NO_FRAME)),
    *cases(refuse_upload, MP4, mp4_of_a_file_elsewhere=(refers_elsewhere, DAMAGED)),
    *cases(
        serve,
        MP4,
        mp4_of_170_large_empty_frames=(lambda: repeat_frames(black(4096, 2304), [0] + [1] * 169), "init_video"),
        mp4_with_much_metadata=(partial(metadata, 4), "init_video"),
        mp4_twice=(two_in_one, "init_video"),
    ),
    *cases(
        refuse,
        WEBM,
        list_of_files_as_webm=(lambda: b"ffconcat version 1.0\nfile /etc/passwd\n", "must be one of video/mp4"),
        webm_that_grows_without_end=(partial(grows, 16383, 16383), DAMAGED),
        webm_of_laces=(partial(laced, 10_000), MANY_FRAMES),
        webm_of_nested_tags=(partial(nested, 2000), NO_FRAME),
    ),
    *cases(serve, WEBM, webm_that_grows=(partial(grows, 128, 128), "init_video")),
]

CASES = [*PICTURES, *VIDEO_FILES]
