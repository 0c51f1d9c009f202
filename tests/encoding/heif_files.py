"""Builds HEIF files box by box (ISO/IEC 23008-12), for what no encoder writes: a phone's grids, and hostile files."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import av
import numpy as np

from tests.hostile.containers import box, full_box


@dataclass(frozen=True)
class Item:
    """`properties` are whole boxes; `made_of` and `about` are the ids of other items, counted from 1."""

    kind: bytes
    data: bytes
    properties: Sequence[bytes] = ()
    made_of: Sequence[int] = ()
    about: Sequence[int] = ()


@cache
def encode_tile(colour: tuple[int, int, int], side: int = 64) -> tuple[bytes, bytes]:
    """The hvcC box (the decoder's settings) and the HEVC data of a one-color tile."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx265", rate=1, options={"x265-params": "log-level=none:keyint=1:info=0:pools=1"})
        stream.width, stream.height, stream.pix_fmt = side, side, "yuv420p"
        stream.codec_context.codec_tag = "hvc1"
        frame = av.VideoFrame.from_ndarray(np.full((side, side, 3), colour, np.uint8), format="rgb24")
        container.mux([*stream.encode(frame.reformat(format="yuv420p")), *stream.encode()])
    data = file.getvalue()

    def content(name: bytes) -> bytes:
        at = data.index(name)
        return data[at + 4 : at - 4 + int.from_bytes(data[at - 4 : at])]

    return box(b"hvcC", content(b"hvcC")), content(b"mdat")


def ispe(width: int, height: int) -> bytes:
    return full_box(b"ispe", struct.pack(">II", width, height))


def clap(width: int, height: int) -> bytes:
    """Crops to this size, around the center."""
    return box(b"clap", struct.pack(">8I", width, 1, height, 1, 0, 1, 0, 1))


def tile(colour: tuple[int, int, int] = (200, 40, 40), *, says: tuple[int, int] | None = None, side: int = 64) -> Item:
    settings, data = encode_tile(colour, side)
    return Item(b"hvc1", data, [settings, ispe(*(says or (side, side)))])


def grid(rows: int, columns: int, *, size: tuple[int, int], made_of: Sequence[int], properties: Sequence[bytes] = ()) -> Item:
    data = struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, *size)
    return Item(b"grid", data, [ispe(*size), *properties], made_of)


def build_heif(items: Sequence[Item], *, primary: int, brand: bytes = b"heic", same_data: bool = False) -> bytes:
    """With `same_data`, all items share the data of the last."""
    boxes = list(dict.fromkeys(each for item in items for each in item.properties))
    numbered = list(enumerate(items, start=1))
    names = b"".join(full_box(b"infe", struct.pack(">HH", n, 0) + item.kind + b"\0", flags=2 << 24) for n, item in numbered)
    owners = b"".join(
        struct.pack(">HB", n, len(item.properties)) + bytes(1 + boxes.index(each) for each in item.properties)
        for n, item in numbered
    )
    references = b"".join(
        box(kind, struct.pack(">HH", n, len(others)) + struct.pack(f">{len(others)}H", *others))
        for n, item in numbered
        for kind, others in ((b"dimg", item.made_of), (b"cdsc", item.about))
        if others
    )
    head = box(b"ftyp", brand, bytes(4), b"mif1heic")

    def meta(start: int) -> bytes:
        places = b""
        for n, item in numbered:
            size = len(items[-1].data) if same_data else len(item.data)
            places += struct.pack(">HHHII", n, 0, 1, start, size)
            start += 0 if same_data else size
        return full_box(
            b"meta",
            full_box(b"hdlr", bytes(4), b"pict", bytes(13)),
            full_box(b"pitm", struct.pack(">H", primary)),
            full_box(b"iloc", struct.pack(">HH", 0x4400, len(items)), places),
            full_box(b"iinf", struct.pack(">H", len(items)), names),
            full_box(b"iref", references),
            box(b"iprp", box(b"ipco", *boxes), full_box(b"ipma", struct.pack(">I", len(items)), owners)),
        )

    data = items[-1].data if same_data else b"".join(item.data for item in items)
    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", data)


def heic_head(brand: bytes) -> bytes:
    """The first bytes of a file of this brand, and nothing else."""
    return struct.pack(">I", 24) + b"ftyp" + brand + b"\0\0\0\0mif1heic" + bytes(200)
