"""A long job while it runs: its ETA, its progress, and how to be rid of it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from promptreel.jobs.job import JobStage, JobStatus
from tests.flows.service import LENGTHS_OF_PREVIEWED, LONG, SHORT, STEPS_OF_PREVIEWED, Service, decode
from tests.waiting import wait_for


@pytest.fixture
def long_job(service: Service) -> Iterator[dict[str, Any]]:
    answer = service.ask(**LONG)
    yield answer
    service.jobs.cancel(answer["id"])
    service.finish(answer)


def test_eta_falls_as_the_job_goes_on(service: Service, long_job: dict[str, Any]) -> None:
    etas = [long_job["eta"]]

    def has_fallen() -> bool:
        etas.append(service.fetch(long_job)["eta"])
        return etas[-1] < etas[0]

    wait_for(has_fallen, every=0.1)
    job = service.job(long_job)
    assert job.stage is JobStage.DENOISING
    assert 0 < job.progress < 1
    assert etas == sorted(etas, reverse=True)
    assert all(isinstance(eta, int) for eta in etas)


def test_preview_shows_what_the_clip_will_be_until_the_job_ends(service: Service) -> None:
    for num_frames in LENGTHS_OF_PREVIEWED:
        answer = service.ask(**SHORT | STEPS_OF_PREVIEWED | {"num_frames": num_frames})
        if seen := watch_previews(service, answer):
            break
    success = service.finish(answer)
    frames, _ = decode(service.download(success))
    with Image.open(io.BytesIO(seen[-1])) as preview:
        assert preview.size == (96, 96)
        assert np.corrcoef(np.asarray(preview.convert("RGB")).ravel(), frames[0].ravel())[0, 1] > 0.6
    assert "preview" not in success
    assert service.client.get(answer["preview"]).status_code == 404
    assert service.files_of(service.job(answer)) == ["1.mp4"]


def watch_previews(service: Service, answer: dict[str, Any]) -> list[bytes]:
    """What the preview's address serves until the job ends."""
    seen = []

    def has_ended() -> bool:
        preview = service.client.get(answer["preview"])
        if preview.status_code == 200:
            seen.append(preview.content)
        return service.job(answer).is_final

    wait_for(has_ended, every=0.2)
    return seen


def test_first_estimate_for_a_shape_is_what_one_took_before(service: Service) -> None:
    """Most of this job is spent outside of its calls, which alone are measured when the worker starts."""
    large = SHORT | {"num_frames": 40, "width": 1024, "height": 1008, "num_inference_steps": 1, "guidance_scale": 1}
    before = service.job(service.make(**large)).result
    answer = service.ask(**large)
    service.jobs.cancel(answer["id"])
    service.finish(answer)

    assert before is not None
    assert answer["eta"] == pytest.approx(before.facts["busy_seconds"], abs=1)


def test_waiting_job_counts_the_one_in_front_of_it(service: Service, long_job: dict[str, Any]) -> None:
    waiting = service.ask(**SHORT)

    assert waiting["eta"] >= service.fetch(long_job)["eta"]
    assert waiting["eta"] > 1
    service.jobs.cancel(waiting["id"])


def test_short_job_passes_a_long_one_and_its_bytes_are_those_it_has_alone(service: Service, long_job: dict[str, Any]) -> None:
    service.wait_until_running(long_job)
    beside = service.download(service.make(**SHORT))

    assert service.job(long_job).status is JobStatus.RUNNING
    service.jobs.cancel(long_job["id"])
    service.finish(long_job)
    assert service.download(service.make(**SHORT)) == beside


def test_worker_goes_on_after_a_cancelled_job(service: Service) -> None:
    cancelled = service.ask(**LONG)
    service.wait_until_running(cancelled)
    service.jobs.cancel(cancelled["id"])
    service.finish(cancelled)
    service.make(**SHORT)

    assert service.job(cancelled).status is JobStatus.CANCELLED
