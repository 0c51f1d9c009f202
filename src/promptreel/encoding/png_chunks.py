"""Removes the PNG chunks that the picture does not need: texts, dates, animation frames, private chunks."""

from __future__ import annotations

import zlib

MAX_PROFILE_BYTES = 4 * 1024 * 1024
"""Of a color profile, decompressed. A larger profile is dropped."""
_SIGNATURE = 8
_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"IDAT", b"IEND"})


def strip(data: bytes) -> bytes:
    """The file up to its IEND chunk, without the others. A truncated chunk stays, so that Pillow reports the damage."""
    kept = [data[:_SIGNATURE]]
    at = _SIGNATURE
    while at + 8 <= len(data):
        name, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4])
        if end > len(data) or (name in _KEPT and (name not in {b"iCCP", b"eXIf"} or _is_sound(data[at:end]))):
            kept.append(data[at:end])
        if name == b"IEND":
            break
        at = end
    return b"".join(kept)


def _is_sound(chunk: bytes) -> bool:
    """Whether an eXIf or iCCP chunk is intact. A profile must also decompress to at most MAX_PROFILE_BYTES."""
    name, content, crc = chunk[4:8], chunk[8:-4], int.from_bytes(chunk[-4:])
    if zlib.crc32(chunk[4:-4]) != crc:
        return False
    if name == b"eXIf":
        return content[:4] in {b"II*\0", b"MM\0*"}
    packed = content[content.find(b"\0") + 2 :]
    try:
        unpacking = zlib.decompressobj()
        unpacking.decompress(packed, MAX_PROFILE_BYTES)
    except zlib.error:
        return False
    return unpacking.eof
