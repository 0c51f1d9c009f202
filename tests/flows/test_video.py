"""The main job, through the front door of a real service: a request, its answers, and the file."""

from __future__ import annotations

import io
import json
from importlib.metadata import version

import av
import numpy as np
import pytest
import requests

from promptreel.encoding.video import read_metadata
from promptreel.jobs.params import MAX_SEED, SCHEDULERS
from tests.flows.service import DOCUMENTED, SHORT, TEXT2VIDEO, Service, decode


def test_documented_request_brings_a_video_that_plays(service: Service) -> None:
    """The client of the hosted service's documentation, with only the host changed."""
    headers = {"Content-Type": "application/json"}
    with service.no_job_begins():
        asked = requests.request("POST", service.url + TEXT2VIDEO, headers=headers, data=json.dumps(DOCUMENTED), timeout=60)
        answer = asked.json()
        assert requests.get(answer["future_links"][0], timeout=60).status_code == 404

    assert answer["status"] == "processing"
    assert isinstance(answer["eta"], int)
    assert answer["eta"] >= 1
    assert answer["output"] == []
    assert answer["message"] == answer["messege"]
    assert answer["fetch_result"] == f"{service.url}/api/v3/dreambooth/fetch/{answer['id']}"

    success = service.finish(answer)
    assert success["status"] == "success"
    assert success["output"] == success["proxy_links"] == answer["future_links"]
    assert "future_links" not in success
    assert success["generationTime"] > 0
    frames, fps = decode(requests.get(success["output"][0], timeout=60).content)
    assert frames.shape == (40, 512, 512, 3)
    assert fps == 8


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_makes_a_video(service: Service, scheduler: str) -> None:
    success = service.make(**SHORT, scheduler=scheduler)

    frames, _ = decode(service.download(success))
    assert frames.shape == (4, 96, 96, 3)
    assert frames.std() > 1  # a picture, not one flat colour
    assert success["meta"]["scheduler"] == scheduler


def test_unguided_request_makes_a_video(service: Service) -> None:
    frames, _ = decode(service.download(service.make(**SHORT, guidance_scale=1)))

    assert frames.shape == (4, 96, 96, 3)


@pytest.mark.parametrize("scheduler", ["UniPCMultistepScheduler", "EulerAncestralDiscreteScheduler"])
def test_same_seed_gives_the_same_bytes(service: Service, scheduler: str) -> None:
    one, other = (service.download(service.make(**SHORT, scheduler=scheduler)) for _ in range(2))

    assert one == other


def test_another_seed_gives_another_video(service: Service) -> None:
    one, _ = decode(service.download(service.make(**SHORT)))
    other, _ = decode(service.download(service.make(**SHORT | {"seed": 8})))

    assert not np.array_equal(one, other)


def test_seed_that_was_drawn_is_told_and_gives_the_same_bytes_again(service: Service) -> None:
    drawn = service.make(**SHORT | {"seed": None})
    seed = drawn["meta"]["seed"]
    again = service.make(**SHORT | {"seed": str(seed)})

    assert 0 <= seed <= MAX_SEED
    assert service.download(again) == service.download(drawn)


def test_two_drawn_seeds_differ(service: Service) -> None:
    one, other = (service.ask(**SHORT | {"seed": None}) for _ in range(2))

    assert one["meta"]["seed"] != other["meta"]["seed"]


def test_video_carries_what_it_takes_to_make_it_again(service: Service) -> None:
    success = service.make(**SHORT, negative_prompt="blurry", fps=5)
    job = service.job(success)
    assert job.result is not None
    comment = read_metadata(service.data_dir / "results" / job.result.key)

    asked = SHORT | {"negative_prompt": "blurry", "fps": 5, "guidance_scale": 7.5, "model_id": "cutout"}
    assert comment.items() >= asked.items()
    assert comment["scheduler"] == "UniPCMultistepScheduler"
    assert len(str(comment["model_sha256"])) == 64
    assert comment["versions"] == {name: version(name) for name in ("promptreel", "torch", "diffusers")}


def test_size_that_is_not_the_models_own_is_what_the_file_has(service: Service) -> None:
    frames, _ = decode(service.download(service.make(**SHORT | {"width": "321", "height": 200})))

    assert frames.shape == (4, 200, 320, 3)


@pytest.mark.parametrize(
    ("output_type", "media_type", "codec"), [("webm", "video/webm", "libdav1d"), ("gif", "image/gif", "gif")]
)
def test_other_types_of_file_play_and_carry_the_same(service: Service, output_type: str, media_type: str, codec: str) -> None:
    asked = SHORT | {"width": 64, "height": 64, "output_type": output_type}
    one, other = (service.make(**asked) for _ in range(2))
    answer = service.client.get(one["output"][0])

    assert one["output"][0].endswith(f".{output_type}")
    assert answer.headers["content-type"] == media_type
    frames, _ = decode(answer.content)
    assert frames.shape == (4, 64, 64, 3)
    assert frames.std() > 1
    with av.open(io.BytesIO(answer.content)) as container:
        assert container.streams.video[0].codec_context.name == codec
        assert container.duration == av.time_base / 2  # four frames at 8 fps
    assert service.download(other) == answer.content
    job = service.job(one)
    assert job.result is not None
    assert service.files_of(job) == [f"1.{output_type}"]
    assert read_metadata(service.data_dir / "results" / job.result.key).items() >= asked.items()


def test_file_is_served_whole_and_in_ranges(service: Service) -> None:
    success = service.make(**SHORT)
    url = success["output"][0]
    whole = service.client.get(url)
    part = service.client.get(url, headers={"Range": "bytes=10-99"})
    end = service.client.get(url, headers={"Range": "bytes=-16"})

    assert whole.headers["content-type"] == "video/mp4"
    assert int(whole.headers["content-length"]) == len(whole.content)
    assert part.status_code == end.status_code == 206
    assert part.headers["content-range"] == f"bytes 10-99/{len(whole.content)}"
    assert part.content == whole.content[10:100]
    assert end.content == whole.content[-16:]


def test_job_records_the_seconds_of_every_stage(service: Service) -> None:
    job = service.job(service.make(**SHORT))

    assert job.result is not None
    assert list(job.result.facts["stages"]) == ["loading", "denoising", "decoding", "encoding", "storing"]
