"""v7, used by the vendor's command line, which sends only the flags that were given and reads real statuses."""

from __future__ import annotations

from dataclasses import replace

from promptreel.api.legacy import v4, v6
from promptreel.api.legacy.dialect import Dialect

V7 = Dialect(
    name="v7",
    fetch_path="/api/v7/video-fusion/fetch",
    to_meta=v6.to_meta,
    defaults=v6.DEFAULTS,
    ranges=v4.RANGES,
    switches=v6.SWITCHES,
    left_out=(*v6.LEFT_OUT, "aspect_ratio", "duration", "resolution"),
)
V7_IMAGE = replace(V7, needs_init="init_image")
V7_VIDEO = replace(V7, needs_init="init_video")
