"""The size of a video: `width` and `height`, or, for the hosted service's larger models, `resolution` and `portrait`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from promptreel.api.field_reader import FieldReader, Limits
from promptreel.api.legacy.dialect import Dialect

# The shorter side. The longer side is 16/9 of it, so at most 1024 pixels.
RESOLUTION = Limits(64, 576, clamps=True, unset=0)
DEFAULT_RESOLUTION = 320
_WIDTH_AND_HEIGHT = re.compile(r"\s*([0-9]{1,5})\s*[xX]\s*([0-9]{1,5})\s*", re.ASCII)
_LINES = re.compile(r"\s*([0-9]{1,5})\s*[pP]\s*", re.ASCII)


def spell_out_resolution(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Replaces a `resolution` such as "480p" or "512x512" by numbers. One of the SDKs sends "512x512" as its default."""
    sent = fields.get("resolution")
    if not isinstance(sent, str) or len(sent) > 40:
        return fields
    if size := _WIDTH_AND_HEIGHT.fullmatch(sent):
        return {**fields, "width": size[1], "height": size[2], "resolution": None}
    if lines := _LINES.fullmatch(sent):
        return {**fields, "resolution": lines[1]}
    return fields


def read_size(reader: FieldReader, dialect: Dialect) -> tuple[int, int]:
    """Width and height, rounded down to multiples of 8. `resolution` overrides both; `portrait` alone sets the default one."""
    size, defaults = dialect.ranges.size, dialect.defaults
    width = reader.whole("width", size, default=defaults.width)
    height = reader.whole("height", size, default=defaults.height)
    if dialect.has_resolution:
        portrait = reader.yes_no("portrait", default=False)
        is_sized = reader.given("width") is not None or reader.given("height") is not None
        resolution = reader.whole("resolution", RESOLUTION, default=None)
        if resolution is None and portrait and not is_sized:
            resolution = DEFAULT_RESOLUTION
        if resolution is not None:
            width, height = resolution * 16 // 9, resolution
        if portrait:
            width, height = min(width, height), max(width, height)
    return width - width % 8, height - height % 8
