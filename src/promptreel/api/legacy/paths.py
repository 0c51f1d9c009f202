"""The paths on which the hosted service's clients create and fetch, each with its dialect."""

from __future__ import annotations

from promptreel.api.legacy.dialect import Dialect
from promptreel.api.legacy.v4 import ENTERPRISE, V4
from promptreel.api.legacy.v5 import V5
from promptreel.api.legacy.v6 import (
    ENTERPRISE_FROM_VIDEO,
    ENTERPRISE_IMAGE,
    ENTERPRISE_ULTRA,
    ENTERPRISE_ULTRA_IMAGE,
    ENTERPRISE_VIDEO,
    V6,
    V6_IMAGE,
    V6_ULTRA,
    V6_ULTRA_IMAGE,
    V6_VIDEO,
)
from promptreel.api.legacy.v7 import V7, V7_IMAGE, V7_VIDEO
from promptreel.jobs.job import VideoJob

CREATE_PATHS = {
    "/api/v4/dreambooth/text2video": V4,
    "/api/v5/text2video": V5,
    "/api/v1/enterprise/text2video": ENTERPRISE,
    "/api/v6/video/text2video": V6,
    "/api/v6/video/text2video_ultra": V6_ULTRA,
    "/api/v6/video/img2video": V6_IMAGE,
    "/api/v6/video/img2video_ultra": V6_ULTRA_IMAGE,
    "/api/v6/video/video2video": V6_VIDEO,
    "/api/v1/enterprise/video/text2video": ENTERPRISE_VIDEO,
    "/api/v1/enterprise/video/img2video": ENTERPRISE_IMAGE,
    "/api/v1/enterprise/video/video2video": ENTERPRISE_FROM_VIDEO,
    "/api/v1/enterprise/ultra_video/text2video": ENTERPRISE_ULTRA,
    "/api/v1/enterprise/ultra_video/img2video": ENTERPRISE_ULTRA_IMAGE,
    "/api/v1/enterprise/image_to_video_ultra/img2video": ENTERPRISE_ULTRA_IMAGE,
    "/api/v7/video-fusion/text-to-video": V7,
    "/api/v7/video-fusion/image-to-video": V7_IMAGE,
    "/api/v7/video-fusion/video-to-video": V7_VIDEO,
}
# With the job's id as the last part of the path.
FETCH_PATHS = (
    "/api/v3/dreambooth/fetch",
    "/api/v4/dreambooth/fetch",
    "/api/v3/fetch",
    "/api/v6/video/fetch",
    "/api/v7/video-fusion/fetch",
    "/api/v7/images/fetch",
    "/api/v1/enterprise/video/fetch",
)
# With the job's id in a field.
FETCH_BY_FIELD_PATHS = (
    "/api/v4/dreambooth/fetch",
    "/api/v6/video/fetch",
    "/api/v6/images/fetch",
    "/api/v1/enterprise/fetch",
)
_DIALECTS = {dialect.name: dialect for dialect in CREATE_PATHS.values()}


def dialect_of(job: VideoJob) -> Dialect:
    """The dialect of the job's request; v4 for a job of another API."""
    return _DIALECTS.get(job.request.get("dialect", ""), V4)
