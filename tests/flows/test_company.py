"""A request's file has the same bytes alone and in any company: over HTTP, from requests that come while others run."""

from __future__ import annotations

from typing import Any

import pytest

from promptreel.jobs.job import JobStatus
from tests.flows.service import LONG, SHORT, Service

# Long enough for seven others to come while it runs.
FIRST = SHORT | {"num_inference_steps": 25}
MIXED: tuple[dict[str, Any], ...] = (
    SHORT | {"seed": 1, "num_inference_steps": 5, "negative_prompt": "snow"},
    SHORT | {"seed": 2, "num_inference_steps": 3, "scheduler": "HeunDiscreteScheduler", "guidance_scale": 3},
    SHORT | {"seed": 3, "num_inference_steps": 6, "scheduler": "DDPMScheduler", "prompt": "a blue rocket rising at night"},
    SHORT | {"seed": 4, "num_inference_steps": 7, "guidance_scale": 1},
    SHORT | {"seed": 5, "num_frames": 6},
    SHORT | {"seed": 6, "num_inference_steps": 4, "scheduler": "EulerAncestralDiscreteScheduler", "guidance_scale": 1},
    SHORT | {"seed": 7, "scheduler": "KDPM2AncestralDiscreteScheduler", "width": 128, "output_type": "gif"},
)
# The built-in model's text encoder has three layers.
FAILING = SHORT | {"clip_skip": 12}


@pytest.fixture(scope="module")
def alone(service: Service) -> list[bytes]:
    """The files of FIRST and of MIXED, each made with nothing else running."""
    return [service.download(service.make(**request)) for request in (FIRST, *MIXED)]


def test_bytes_are_the_same_alone_and_in_company(service: Service, alone: list[bytes]) -> None:
    """The first job starts beside one other job, and ends beside seven."""
    tries = (check_company(service, alone) for _ in range(5))
    assert any(tries)  # mostly the first


def check_company(service: Service, alone: list[bytes]) -> bool:
    """Checks the bytes, and returns whether all others began while the first one ran, however long this test was held up."""
    with service.no_job_begins():
        first, *others = [service.ask(**request) for request in (FIRST, *MIXED)]  # of which each is claimed at a later step
    made = [service.finish(answer) for answer in (first, *others)]

    assert [ended["status"] for ended in made] == ["success"] * len(alone)
    assert [service.download(ended) for ended in made] == alone
    end_of_first = service.job(first).finished_at
    return all(service.job(answer).started_at < end_of_first for answer in others)


def test_cancelled_and_failing_requests_leave_the_others_bytes_alone(service: Service, alone: list[bytes]) -> None:
    first = service.ask(**FIRST)
    cancelled = service.ask(**LONG | {"seed": 8, "scheduler": "HeunDiscreteScheduler"})
    service.wait_until_running(cancelled)
    failing, other = service.ask(**FAILING), service.ask(**MIXED[0])
    failed = service.finish(failing)
    service.jobs.cancel(cancelled["id"])

    assert (failed["status"], failed["output"]) == ("failed", [])
    assert "clip_skip" in failed["message"]
    assert service.download(service.finish(first)) == alone[0]
    assert service.download(service.finish(other)) == alone[1]
    assert service.finish(cancelled)["status"] == "failed"
    assert service.job(cancelled).status is JobStatus.CANCELLED
