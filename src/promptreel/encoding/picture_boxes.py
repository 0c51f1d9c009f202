"""Reads the color tags (nclx) of AVIF and HEIF files: ISO/IEC 23008-12, with the numbers of H.273.

Pillow reads profiles but not these tags. A profile takes precedence.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ColorTags:
    primaries: int
    transfer: int


def read_color_tags(data: bytes) -> ColorTags | None:
    """The tags of the primary picture; None if it has none, or if the boxes are damaged."""
    try:
        meta = _find(data, b"meta")[4:]
        item = _read_primary_item(_find(meta, b"pitm"))
        described = _find(meta, b"iprp")
        properties = [(name, content) for name, content in _boxes(_find(described, b"ipco"))]
        for index in _read_associations(_find(described, b"ipma"), item):
            name, content = properties[index - 1] if 0 < index <= len(properties) else (b"", b"")
            if name == b"colr" and content[:4] == b"nclx":
                return ColorTags(*struct.unpack_from(">HH", content, 4))
    except (KeyError, struct.error, IndexError):
        return None
    return None


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The name and the content of each box."""
    at = 0
    while at + 8 <= len(data):
        size, start = int.from_bytes(data[at : at + 4]), at + 8
        if size == 1:
            size, start = int.from_bytes(data[start : start + 8]), start + 8
        end = at + size if size else len(data)
        if end < start:
            return
        yield data[at + 4 : at + 8], data[start:end]
        at = end


def _find(data: bytes, wanted: bytes) -> bytes:
    """The content of the first box of that name. Raises KeyError."""
    for name, content in _boxes(data):
        if name == wanted:
            return content
    raise KeyError(wanted)


def _read_primary_item(pitm: bytes) -> int:
    return int(struct.unpack_from(">I" if pitm[0] else ">H", pitm, 4)[0])


def _read_associations(ipma: bytes, item: int) -> list[int]:
    """The indices of an item's properties, counted from 1."""
    version, is_wide, at = ipma[0], ipma[3] & 1, 8
    for _ in range(struct.unpack_from(">I", ipma, 4)[0]):
        found, count = struct.unpack_from(">IB" if version else ">HB", ipma, at)
        at += 5 if version else 3
        size = 2 if is_wide else 1
        numbers = struct.unpack_from(f">{count}{'H' if is_wide else 'B'}", ipma, at)
        if found == item:
            return [number & (0x7FFF if is_wide else 0x7F) for number in numbers]  # the top bit: "essential"
        at += count * size
    return []
