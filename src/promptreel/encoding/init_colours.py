"""Converts foreign colors to sRGB: embedded profiles, wide gamuts, and HDR."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFilter

WHITE_NITS = 203.0
"""HDR reference white (ITU-R BT.2408), which becomes sRGB's white."""
PEAK_NITS = 1000.0
"""HLG's nominal peak (BT.2100). Brighter light is clipped."""
_LUT_SIZE = 33
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
# Linear light from a gamut's primaries to those of BT.709 and sRGB: ITU-R BT.2087, and the same for P3 with D65 white.
_FROM_BT2020 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]])
_FROM_P3 = np.array([[1.2249, -0.2249, 0.0], [-0.0421, 1.0421, 0.0], [-0.0196, -0.0786, 1.0983]])
_GAMUTS = {
    int(ColorPrimaries.BT2020): _FROM_BT2020,
    int(ColorPrimaries.SMPTE431): _FROM_P3,
    int(ColorPrimaries.SMPTE432): _FROM_P3,
}
_HDR = frozenset({int(ColorTrc.SMPTE2084), int(ColorTrc.ARIB_STD_B67)})
# The values of a frame's matrix that are believed. Others are rare, or wrong.
_MATRICES = frozenset({int(Colorspace.ITU709), 4, 5, 6, int(Colorspace.SMPTE240M), int(Colorspace.BT2020)})
_BT2020_CONSTANT = 10


def apply_profile(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Converts to sRGB, as RGB or RGBA, by the ICC profile. A profile that is broken or does not fit is ignored."""
    has_alpha = picture.has_transparency_data
    if profile is None:
        return picture.convert("RGBA" if has_alpha else "RGB")
    if has_alpha:
        rgba = picture.convert("RGBA")
        colors = _convert(picture.getchannel("L") if picture.mode == "LA" else rgba.convert("RGB"), profile)
        colors.putalpha(rgba.getchannel("A"))
        return colors
    return _convert(picture, profile)


def _convert(picture: Image.Image, profile: bytes) -> Image.Image:
    """Converts to RGB. A gray picture may carry an RGB profile, so both modes are tried."""
    for shape in dict.fromkeys([picture.mode, "RGB"]):
        same = picture if picture.mode == shape else picture.convert(shape)
        try:
            found = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(
                same, found, _SRGB, outputMode="RGB", flags=ImageCms.Flags.BLACKPOINTCOMPENSATION
            )
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            continue
        assert converted is not None
        return converted
    return picture.convert("RGB")


def guess_matrix(colorspace: int, *, codec: str, size: tuple[int, int]) -> int:
    """The frame's own matrix if it names a usable one, else what players assume: BT.709 from 720p up, but never for VP8."""
    if colorspace == _BT2020_CONSTANT:
        return int(Colorspace.BT2020)
    if colorspace in _MATRICES:
        return colorspace
    is_hd = size[0] >= 1280 or size[1] > 576
    return int(Colorspace.ITU709 if is_hd and codec != "vp8" else Colorspace.ITU601)


def make_table(transfer: int, primaries: int) -> ImageFilter.Color3DLUT | None:
    """A lookup table from RGB with this transfer function and these primaries to sRGB; None if none is needed."""
    if transfer not in _HDR and primaries not in _GAMUTS:
        return None
    return _make_table(transfer if transfer in _HDR else int(ColorTrc.GAMMA22), primaries)


@cache
def _make_table(transfer: int, primaries: int) -> ImageFilter.Color3DLUT:
    steps = np.linspace(0.0, 1.0, _LUT_SIZE)
    blue, green, red = np.meshgrid(steps, steps, steps, indexing="ij")  # red changes first
    signal = np.stack([red, green, blue], axis=-1).reshape(-1, 3)
    hdr = transfer in _HDR
    gamut = _GAMUTS.get(primaries, _FROM_BT2020 if hdr else np.eye(3))
    light = _to_light(signal, transfer) @ gamut.T
    table = _to_srgb(_compress(light)) if hdr else np.clip(light, 0, 1) ** (1 / 2.2)
    return ImageFilter.Color3DLUT(_LUT_SIZE, table.ravel().tolist())


def _to_light(signal: NDArray[np.float64], transfer: int) -> NDArray[np.float64]:
    """Signal to linear light; HDR in nits, by ITU-R BT.2100: the PQ EOTF, or the HLG inverse OETF and OOTF."""
    if transfer == ColorTrc.SMPTE2084:
        return _from_pq(signal)
    if transfer == ColorTrc.ARIB_STD_B67:
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        luminance = scene @ np.array([0.2627, 0.6780, 0.0593])
        nits: NDArray[np.float64] = PEAK_NITS * luminance[:, None] ** 0.2 * scene
        return nits
    light: NDArray[np.float64] = signal**2.2
    return light


def _compress(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Maps nits to 0..1 of sRGB's white. The EETF of ITU-R BT.2390, applied to the largest of R, G, B, rolls off highlights."""
    nits = np.clip(nits, 0, None)
    brightest = np.clip(nits.max(axis=1, keepdims=True), 1e-6, PEAK_NITS)
    peak = _to_pq(np.array(PEAK_NITS))
    most = _to_pq(np.array(WHITE_NITS)) / peak
    knee = 1.5 * most - 0.5
    level = _to_pq(brightest) / peak
    t = np.clip((level - knee) / (1 - knee), 0, 1)
    rolled = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    wanted = _from_pq(np.where(level < knee, level, rolled) * peak)
    share: NDArray[np.float64] = np.clip(nits / brightest * wanted / WHITE_NITS, 0, 1)
    return share


def _to_pq(nits: NDArray[np.float64]) -> NDArray[np.float64]:
    power = (nits / 10_000) ** (1305 / 8192)
    signal: NDArray[np.float64] = ((107 / 128 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)
    return signal


def _from_pq(signal: NDArray[np.float64]) -> NDArray[np.float64]:
    power = signal ** (32 / 2523)
    nits: NDArray[np.float64] = 10_000 * (np.maximum(power - 107 / 128, 0) / (2413 / 128 - 2392 / 128 * power)) ** (8192 / 1305)
    return nits


def _to_srgb(light: NDArray[np.float64]) -> NDArray[np.float64]:
    signal: NDArray[np.float64] = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return signal
