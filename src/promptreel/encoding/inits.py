"""Recognizes inits by their first bytes; encoding/decoding.py decodes them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from promptreel.encoding import heif
from promptreel.errors import InitUnusable
from promptreel.media import INIT_TYPES, Init, InitKind

# Brands of ISO media files that are pictures. libavformat would read HEIC as a video, each tile of the picture as a frame.
_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
_PICTURES = frozenset({b"mif1", b"msf1", b"mif2", b"miaf"})
_HEIC_IS_A_PICTURE = "HEIC, a picture: send it as an image, or save it as MP4"
_FOREIGN = {
    "TIFF: save it as PNG or JPEG": re.compile(rb"ii\*\0|mm\0\*"),
    "BMP: save it as PNG or JPEG": re.compile(rb"bm.{4}\0{4}", re.DOTALL),
    "JPEG XL: save it as PNG or JPEG": re.compile(rb"\xff\x0a|\0\0\0\x0cjxl "),
    "SVG: save it as PNG": re.compile(rb"(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?(?:<!doctype svg[^>]*>\s*)?<svg", re.DOTALL),
    "a web page: use the address of the file itself": re.compile(rb"(?:<\?xml[^>]*>\s*)?(?:<!doctype html|<html|<head)"),
    "PDF: save its page as PNG": re.compile(rb"%pdf"),
    "AVI: save it as MP4": re.compile(rb"riff....avi ", re.DOTALL),
    "an MPEG program or transport stream: save it as MP4": re.compile(rb"\0\0\x01\xba|g.{187}g", re.DOTALL),
    "FLV: save it as MP4": re.compile(rb"flv\x01"),
    "WMV: save it as MP4": re.compile(rb"0&\xb2u\x8ef\xcf\x11"),
    "Ogg: save it as WebM or MP4": re.compile(rb"oggs\0"),
}


def recognise(data: bytes) -> str | None:
    """The ending in INIT_TYPES that a file's first bytes stand for; None for anything else."""
    starts = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpg", b"GIF8": "gif", b"\x1aE\xdf\xa3": "webm"}
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:8] == b"ftyp":
        return _recognise_brand(data)
    if data[4:8] in {b"moov", b"mdat", b"wide"}:  # old QuickTime, without an ftyp box
        return "mov"
    return next((ending for start, ending in starts.items() if data.startswith(start)), None)


def _recognise_brand(data: bytes) -> str | None:
    """The ending of an ISO media file, by the brands in its ftyp box."""
    brand = data[8:12]
    if brand in {b"avif", b"avis"} or (brand in _PICTURES and b"avif" in _read_brands(data)):
        return "avif"
    if brand in _HEIC or brand in _PICTURES:
        return "heic"
    return "mov" if brand == b"qt  " else "mp4"


def _read_brands(data: bytes) -> set[bytes]:
    """The compatible brands."""
    end = min(int.from_bytes(data[:4]), 512)
    return {data[at : at + 4] for at in range(16, end, 4)}


def read_init(data: bytes, kinds: Sequence[InitKind], *, named: str = "") -> Init:
    """The file as the first of `kinds` that its first bytes fit; its name does not count. It is not decoded yet.

    Raises InitUnusable, whose message calls the file `named`, the client's word for it.
    """
    ending = recognise(data)
    kind = next((kind for kind in kinds if ending in readable_types(kind)), None)
    if ending is None or kind is None:
        types = ", ".join(dict.fromkeys(known for kind in kinds for known in readable_types(kind).values()))
        raise InitUnusable(f"The {named or 'init'} must be one of {types}.{_explain(data, ending)}")
    return Init(kind, ending, data)


def readable_types(kind: InitKind) -> dict[str, str]:
    """The part of INIT_TYPES that this installation can read."""
    return {ending: known for ending, known in INIT_TYPES[kind].items() if ending != "heic" or heif.is_installed()}


def _explain(data: bytes, ending: str | None) -> str:
    """Names the file's type if it is a common one that is not accepted, as a sentence; else empty."""
    if ending == "heic":
        return f" This is {_HEIC_IS_A_PICTURE if heif.is_installed() else heif.NOT_INSTALLED}."
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for what, sign in _FOREIGN.items():
        if sign.match(start):
            return f" This is {what}."
    return ""
