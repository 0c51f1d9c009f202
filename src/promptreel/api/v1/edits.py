"""OpenAI's edits: videos that start from another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from promptreel.api.field_reader import FieldReader
from promptreel.api.init_fields import MAX_MEGABYTES
from promptreel.api.v1.answers import to_extensions
from promptreel.api.v1.requests import read_create, read_video_id, was_enhanced
from promptreel.encoding.decoder import Decoder
from promptreel.errors import InvalidParams
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.jobs.job import NewJob, VideoJob
from promptreel.media import Init
from promptreel.models.registry import ModelRegistry

SOURCE = "video"
"""The field that holds the video to start from."""


def read_source_id(fields: Mapping[str, Any]) -> str | None:
    """The id, as it was sent, of a video that was made here. None if the request contains or links the video itself.

    Raises InvalidParams if there is neither.
    """
    reader = FieldReader(fields)
    video = reader.given(SOURCE)
    video_id = video.get("id") if isinstance(video, Mapping) else reader.given(f"{SOURCE}[id]")
    if video_id is None and isinstance(video, str) and read_video_id(video.strip()) is not None:
        video_id = video
    if isinstance(video_id, str) and video_id.strip():
        return video_id.strip()
    if video is None or isinstance(video, Mapping):
        reader.reject(SOURCE, 'The video must be a file, a URL, a data: URI, or {"id": "video_17"} for one that was made here.')
    reader.raise_errors()
    return None


def refuse_large(size_bytes: int) -> None:
    """Checks the size of a video's file before it is read. Raises InvalidParams."""
    if size_bytes > MAX_MEGABYTES["video"] * 1024 * 1024:
        raise InvalidParams({SOURCE: [f"The video must not be greater than {MAX_MEGABYTES['video']} MB."]})


def read_edit(
    fields: Mapping[str, Any], models: ModelRegistry, fetcher: SafeFetcher, decoder: Decoder
) -> tuple[NewJob, Init | None]:
    """A job that starts from the file in the request. Raises InvalidParams, ModelNotFound and DecoderBusy."""
    return read_create(fields, models, fetcher, decoder, reference=SOURCE)


def read_edit_of(
    source: VideoJob,
    content: bytes,
    fields: Mapping[str, Any],
    *,
    models: ModelRegistry,
    fetcher: SafeFetcher,
    decoder: Decoder,
) -> tuple[NewJob, Init | None]:
    """A job that starts from the source's file and keeps its params, even the seed, unless the request sets them.

    Raises InvalidParams, ModelNotFound and DecoderBusy.
    """
    params, reader = source.params, FieldReader(fields)
    as_it_was = to_extensions(params) | {
        "model": params.model_id,
        "width": params.width,
        "height": params.height,
        "enhance_prompt": was_enhanced(source),
    }
    del as_it_was["strength"]  # it applied to the source's own init
    del as_it_was["media_type"]  # it follows from the output_type
    if reader.given("seconds") is not None:
        del as_it_was["num_frames"]
    if reader.given("size") is not None:
        del as_it_was["width"], as_it_was["height"]
    sent = {name: value for name, value in fields.items() if reader.given(name) is not None}
    new_job, init = read_edit(as_it_was | sent | {SOURCE: content}, models, fetcher, decoder)
    return replace(new_job, request=new_job.request | {"remixed_from": source.id}), init
