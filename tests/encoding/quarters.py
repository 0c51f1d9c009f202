"""A picture of four differently colored quarters, in files as cameras, phones, browsers and programs write them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.bitstream import BitStreamFilterContext
from PIL import Image, ImageCms

from promptreel.encoding.yuv import ordinary_priority

COLOURS = ((200, 40, 40), (40, 160, 60), (40, 60, 190), (220, 200, 50))
WHITE = (255, 255, 255)
WIDTH, HEIGHT = 96, 64


def make_quarters(colours: Sequence[Any] = COLOURS, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 [height, width, channels]. Order of the colors: top left, top right, bottom left, bottom right."""
    top, bottom = (np.repeat([left, right], width // 2, axis=0) for left, right in (colours[:2], colours[2:]))
    return np.repeat([top, bottom], height // 2, axis=0).astype(np.uint8)


def read_quarters(picture: np.ndarray) -> list[tuple[int, ...]]:
    """The color in the middle of each quarter."""
    height, width = picture.shape[:2]
    places = [(y, x) for y in (height // 4, height * 3 // 4) for x in (width // 4, width * 3 // 4)]
    return [tuple(int(value) for value in picture[y - 2 : y + 2, x - 2 : x + 2].reshape(-1, 3).mean(0)) for y, x in places]


def save(picture: Image.Image | np.ndarray, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(file, file_format, **options)
    return file.getvalue()


# PNG


def chunk(name: bytes, data: bytes, *, crc: int | None = None) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) if crc is None else crc)


def with_chunk(added: bytes, png: bytes | None = None) -> bytes:
    """A PNG with a chunk added right after its header."""
    png = png or save(make_quarters(), "PNG")
    return png[:33] + added + png[33:]


def raw_png(samples: np.ndarray, *, colour_type: int, depth: int = 8, before: bytes = b"") -> bytes:
    """A PNG of these samples, [H, W, channels]. Pillow writes 16 bits for gray only."""
    rows = np.ascontiguousarray(samples, ">u2" if depth == 16 else "u1")
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + before + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def profile(*, swapped: bool = True) -> bytes:
    """An ICC profile like sRGB's, but with red and blue swapped, so that ignoring it is obvious."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    red, green, blue = (0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141)
    if swapped:
        red, blue = blue, red
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, int(2.2 * 256))
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 2) + b"x\0" + bytes(78),
        b"cprt": b"text\0\0\0\0x\0\0\0",
        b"wtpt": xyz(0.9642, 1, 0.8249),
        b"rXYZ": xyz(*red),
        b"gXYZ": xyz(*green),
        b"bXYZ": xyz(*blue),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, body, start = b"", b"", 132 + 12 * len(tags)
    for name, value in tags.items():
        padded = value + bytes(-len(value) % 4)
        table += name + struct.pack(">II", start + len(body), len(padded))
        body += padded
    head = struct.pack(">I", start + len(body)) + b"\0\0\0\0\x02\x40\0\0mntrRGB XYZ " + bytes(12) + b"acsp" + bytes(28)
    head = (head + struct.pack(">iii", 63190, 65536, 54060)).ljust(128, b"\0")
    return head + struct.pack(">I", len(tags)) + table + body


SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SWAPPED = make_quarters([colour[::-1] for colour in COLOURS])


def exif(orientation: int) -> bytes:
    notes = Image.Exif()
    notes[0x0112] = orientation
    return notes.tobytes()


def as_stored(shown: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels as a camera in this EXIF orientation stores them (EXIF 2.3)."""
    return {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.swapaxes(0, 1),
        6: np.rot90(shown),
        7: np.rot90(shown, 2).swapaxes(0, 1),
        8: np.rot90(shown, -1),
    }[orientation].copy()


# QuickTime's display matrices: x' = a x + c y, y' = b x + d y. Each undoes `as_stored`.
MATRICES = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


# Videos

WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Luma weights of red and blue, by H.273's number of the matrix."""


def to_frame(rgb: np.ndarray, *, matrix: int = 1, full: bool = False, bits: int = 8) -> av.VideoFrame:
    """RGB from 0 to 1 -> 4:2:0 by H.273's formula, independent of the library under test."""
    height, width = rgb.shape[:2]
    red, blue = WEIGHTS[matrix]
    luma = rgb @ np.array([red, 1 - red - blue, blue])
    differences = [(rgb[..., 2] - luma) / (2 - 2 * blue), (rgb[..., 0] - luma) / (2 - 2 * red)]
    scale = 1 << (bits - 8)
    brightest, darkest, chroma = ((1 << bits) - 1, 0, (1 << bits) - 1) if full else (219 * scale, 16 * scale, 224 * scale)
    planes = [luma * brightest + darkest, *(each[::2, ::2] * chroma + 128 * scale for each in differences)]
    kind = np.uint8 if bits == 8 else np.uint16
    frame = av.VideoFrame(width, height, "yuv420p" if bits == 8 else f"yuv420p{bits}le")
    frame.color_range = 2 if full else 1
    for plane, values in zip(frame.planes, planes, strict=True):
        row = np.zeros((values.shape[0], plane.line_size // np.dtype(kind).itemsize), kind)
        row[:, : values.shape[1]] = np.round(values)
        plane.update(row.tobytes())
    return frame


@ordinary_priority()
def encode(
    frames: Sequence[av.VideoFrame],
    *,
    ending: str = "mp4",
    codec: str = "libx264",
    times: Sequence[int] | None = None,
    aspect: Fraction | None = None,
    tags: tuple[int, int, int] | None = None,
    full: bool = False,
    options: dict[str, str] | None = None,
) -> bytes:
    """`times` are in milliseconds; `tags` are H.273's numbers of primaries, transfer function and matrix."""
    file = io.BytesIO()
    with ordinary_priority(), av.open(file, "w", format=ending) as container:
        stream = container.add_stream(codec, rate=8, options={"crf": "4", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, frames[0].format.name
        context = stream.codec_context
        context.time_base = Fraction(1, 1000)
        if aspect:
            context.sample_aspect_ratio = aspect
        if tags:
            context.color_primaries, context.color_trc, context.colorspace = tags
        if full:
            context.color_range = 2
        for number, frame in enumerate(frames):
            frame.pts = times[number] if times else 125 * number
            frame.time_base = Fraction(1, 1000)
            if tags:
                frame.color_primaries, frame.color_trc, frame.colorspace = tags
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


def video(shown: np.ndarray | None = None, *, matrix: int = 1, bits: int = 8, full: bool = False, **more: Any) -> bytes:
    """A video of two equal frames, tagged as BT.709 by default."""
    rgb = (make_quarters() if shown is None else shown) / 255
    more = {"tags": (1, 1, 1)} | more
    return encode([to_frame(rgb, matrix=matrix, full=full, bits=bits) for _ in range(2)], full=full, **more)


def lay(mp4: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """Replaces the display matrix in the track's header."""
    at = mp4.index(b"tkhd") + 44
    a, b, c, d = (value * 0x10000 for value in matrix)
    return mp4[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000) + mp4[at + 36 :]


def retag(mp4: bytes, *, primaries: int, transfer: int, matrix: int) -> bytes:
    """Changes the color tags of an H.264 file, also to reserved numbers, which encoders refuse to write."""
    tags = f"colour_primaries={primaries}:transfer_characteristics={transfer}:matrix_coefficients={matrix}"
    file = io.BytesIO()
    with av.open(io.BytesIO(mp4)) as source, av.open(file, "w", format="mp4") as target:
        old = source.streams.video[0]
        new = target.add_stream_from_template(old)
        tagging = BitStreamFilterContext(f"h264_metadata={tags}", old, new)
        for packet in source.demux(old):
            for tagged in tagging.filter(packet if packet.size else None):
                tagged.stream = new
                target.mux(tagged)
    return file.getvalue()


def to_light(srgb: np.ndarray) -> np.ndarray:
    share = srgb / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


TO_BT2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
TO_P3 = np.array([[0.8225, 0.1774, 0.0], [0.0332, 0.9669, 0.0], [0.0171, 0.0724, 0.9108]])


def to_pq(nits: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084."""
    power = (nits / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def to_hlg(nits: np.ndarray) -> np.ndarray:
    """ARIB STD-B67 for a 1000-nit display: inverse OOTF, then OETF."""
    luminance = (nits / 1000) @ np.array([0.2627, 0.6780, 0.0593])
    scene = nits / 1000 * luminance[..., None] ** (1 / 1.2 - 1)
    return np.where(
        scene <= 1 / 12, np.sqrt(3 * scene), 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    )
