"""v7: what the vendor's command line speaks. It sends the flags that were given and nothing else, and reads real statuses."""

from __future__ import annotations

from dataclasses import replace

from promptreel.api.dialects import legacy_v4, legacy_v6
from promptreel.api.dialects.legacy_dialect import Dialect

V7 = Dialect(
    name="v7",
    fetch_path="/api/v7/video-fusion/fetch",
    to_meta=legacy_v6.to_meta,
    defaults=legacy_v6.DEFAULTS,
    ranges=legacy_v4.RANGES,
    switches=legacy_v6.SWITCHES,
    left_out=(*legacy_v6.LEFT_OUT, "aspect_ratio", "duration", "resolution"),
)
V7_IMAGE = replace(V7, needs_init="init_image")
V7_VIDEO = replace(V7, needs_init="init_video")
