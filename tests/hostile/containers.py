"""Builds files with arbitrary headers: mp4 boxes, PNG chunks and WebM elements, written byte by byte."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import av
import numpy as np

MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
FTYP = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"


def box(name: bytes, *parts: bytes) -> bytes:
    """A box of an mp4."""
    data = b"".join(parts)
    return struct.pack(">I", len(data) + 8) + name + data


def full_box(name: bytes, *parts: bytes, flags: int = 0) -> bytes:
    return box(name, struct.pack(">I", flags), *parts)


@dataclass(frozen=True)
class H264:
    """Frames encoded by x264: the track's description of them, and their data."""

    width: int
    height: int
    avcc: bytes
    frames: Sequence[bytes]


def encode_h264(pixels: np.ndarray, *, crf: int = 23) -> H264:
    """Encodes frames [T, H, W, 3]; the first is a key frame, the others are predicted."""
    file = io.BytesIO()
    options = {"crf": str(crf), "preset": "ultrafast", "x264-params": "keyint=9999:scenecut=0:bframes=0"}
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=25, options=options)
        stream.height, stream.width, stream.pix_fmt = pixels.shape[1], pixels.shape[2], "yuv420p"
        packets = [packet for frame in pixels for packet in stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24"))]
        packets += stream.encode()
        container.mux(packets)
    with av.open(io.BytesIO(file.getvalue())) as container:
        stream = container.streams.video[0]
        frames = [bytes(packet) for packet in container.demux(stream) if packet.size]
        return H264(stream.width, stream.height, bytes(stream.codec_context.extradata), frames)


@dataclass(frozen=True, kw_only=True)
class Mp4:
    """One track whose samples are ranges of the stored frames: `sizes` and `offsets` into their data.

    Without them, `count` samples of one byte each.
    """

    codec: H264
    sizes: Sequence[int] = ()
    offsets: Sequence[int] = ()
    count: int = 0
    edits: bytes = b""
    dref: bytes = full_box(b"url ", flags=1)
    more_in_moov: bytes = b""
    more_tracks: int = 0
    after: bytes = b""
    entry: bytes = b"avc1"
    size: tuple[int, int] | None = field(default=None)

    def build(self) -> bytes:
        before = len(FTYP) + len(self._moov(0)) + 8
        return FTYP + self._moov(before) + box(b"mdat", *self.codec.frames) + self.after

    def _moov(self, first: int) -> bytes:
        mvhd = full_box(b"mvhd", struct.pack(">IIII", 0, 0, 25, 25), struct.pack(">IHHII", 0x10000, 0x100, 0, 0, 0), MATRIX)
        mvhd = mvhd[8:] + bytes(24) + struct.pack(">I", 2)
        tracks = [self._trak(first, number + 1) for number in range(self.more_tracks + 1)]
        return box(b"moov", box(b"mvhd", mvhd), *tracks, self.more_in_moov)

    def _trak(self, first: int, number: int) -> bytes:
        width, height = self.size or (self.codec.width, self.codec.height)
        tkhd = full_box(
            b"tkhd",
            struct.pack(">IIIII", 0, 0, number, 0, 25), bytes(16), MATRIX, struct.pack(">II", width << 16, height << 16),
            flags=7,
        )  # fmt: skip
        mdhd = full_box(b"mdhd", struct.pack(">IIIIHH", 0, 0, 25, 25, 0x55C4, 0))
        hdlr = full_box(b"hdlr", bytes(4), b"vide", bytes(13))
        minf = box(b"minf", full_box(b"vmhd", bytes(8), flags=1), self._dinf(), self._stbl(first))
        return box(b"trak", tkhd, self.edits, box(b"mdia", mdhd, hdlr, minf))

    def _dinf(self) -> bytes:
        return box(b"dinf", full_box(b"dref", struct.pack(">I", 1), self.dref))

    def _stbl(self, first: int) -> bytes:
        width, height = self.size or (self.codec.width, self.codec.height)
        looks = bytes(16) + struct.pack(">HHIIIH", width, height, 0x480000, 0x480000, 0, 1) + bytes(32) + b"\0\x18\xff\xff"
        entry = box(self.entry, bytes(6), struct.pack(">H", 1), looks, box(b"avcC", self.codec.avcc))
        count = len(self.sizes) or self.count
        stsz = struct.pack(f">II{len(self.sizes)}I", 0 if self.sizes else 1, count, *self.sizes)
        offsets = [first + offset for offset in self.offsets] or [first]
        return box(
            b"stbl",
            full_box(b"stsd", struct.pack(">I", 1), entry),
            full_box(b"stts", struct.pack(">III", 1, count, 1)),
            full_box(b"stsc", struct.pack(">IIII", 1, 1, 1 if self.offsets else max(1, count), 1)),
            full_box(b"stsz", stsz),
            full_box(b"stco", struct.pack(f">I{len(offsets)}I", len(offsets), *offsets)),
        )


def repeat_frames(codec: H264, order: Sequence[int], **more: object) -> bytes:
    """An mp4 whose samples refer to stored frames by number, in any order, any number of times."""
    starts = np.cumsum([0, *map(len, codec.frames)]).tolist()
    sizes, offsets = [len(codec.frames[each]) for each in order], [starts[each] for each in order]
    return Mp4(codec=codec, sizes=sizes, offsets=offsets, **more).build()


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *chunks: bytes, colours: int = 2, rows: bytes | None = None) -> bytes:
    """`rows` is the compressed data; black by default."""
    if rows is None:
        rows = deflate_zeros(height * (1 + width * {0: 1, 2: 3, 3: 1, 6: 4}[colours]))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def deflate_zeros(count: int) -> bytes:
    """`count` zeros, compressed to a thousandth: the same block for a million zeros, repeated."""
    packer = zlib.compressobj(wbits=-15)
    million = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = packer.compress(bytes(count & 0xFFFFF)) + packer.flush()
    checksum = struct.pack(">HH", count % 65521, 1)
    return b"\x78\x9c" + million * (count >> 20) + rest + checksum


def element(name: int, *parts: bytes, size: int | None = None) -> bytes:
    """An element of a WebM. `size` is claimed instead of the real size; -1 means unknown."""
    data = b"".join(parts)
    length = len(data) if size is None else size
    spelled = b"\x01" + (b"\xff" * 7 if length < 0 else length.to_bytes(7, "big"))
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + spelled + data


def webm(codec: str, width: int, height: int, *clusters: bytes) -> bytes:
    head = element(0x1A45DFA3, element(0x4286, b"\1"), element(0x4282, b"webm"), element(0x4287, b"\4"), element(0x4285, b"\2"))
    video = element(0xE0, element(0xB0, width.to_bytes(4, "big")), element(0xBA, height.to_bytes(4, "big")))
    entry = element(
        0xAE, element(0xD7, b"\1"), element(0x73C5, b"\1"), element(0x83, b"\1"), element(0x86, codec.encode()), video
    )
    info = element(0x1549A966, element(0x2AD7B1, (1_000_000).to_bytes(4, "big")))
    return head + element(0x18538067, info, element(0x1654AE6B, entry), *clusters, size=-1)


def cluster(time: int, *blocks: bytes) -> bytes:
    return element(0x1F43B675, element(0xE7, time.to_bytes(4, "big")), *blocks)


def block(data: bytes, *, at: int = 0, flags: int = 0x80) -> bytes:
    return element(0xA3, b"\x81" + struct.pack(">hB", at, flags), data)


def vp8_frames(pixels: np.ndarray) -> list[bytes]:
    """Frames [T, H, W, 3], each a key frame."""
    with av.open(io.BytesIO(), "w", format="webm") as container:
        stream = container.add_stream("libvpx", rate=25, options={"g": "1", "deadline": "realtime"})
        stream.height, stream.width, stream.pix_fmt = pixels.shape[1], pixels.shape[2], "yuv420p"
        frames = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in pixels]
        return [bytes(packet) for frame in [*frames, None] for packet in stream.encode(frame)]


def resize_vp8(key_frame: bytes, width: int, height: int) -> bytes:
    """The same frame, with another size in its header."""
    return key_frame[:6] + struct.pack("<HH", width, height) + key_frame[10:]
