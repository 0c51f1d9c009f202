"""Trainings in the queue: what they cost, and how they stand among videos."""

from __future__ import annotations

from dataclasses import replace

import pytest

from promptreel.errors import JobNotFound
from promptreel.jobs.job import JobStage, JobStatus
from promptreel.jobs.keys import Caller
from promptreel.jobs.store import JobStore
from promptreel.jobs.training_params import TrainingParams, training_units
from promptreel.jobs.views import OwnTrainings
from tests.jobs.factories import Clock, make_new_job, make_new_training


def test_row_reads_back_as_the_training_that_was_queued(store: JobStore) -> None:
    new = make_new_training(sample_prompts=["a sks snail moving left"])
    job = store.submit(new)

    assert isinstance(new.params, TrainingParams)
    assert (store.get(job.id).params, job.kind, job.params.model_id) == (new.params, "training", "my-snail")


@pytest.mark.parametrize(
    ("params", "units"),
    [
        ({"steps": 100, "batch_size": 4}, 100 * 4 * 3),
        ({"steps": 100, "batch_size": 4, "class_prompt": "a snail"}, 100 * 4 * 4),
        ({"steps": 100, "batch_size": 4, "sample_prompts": ["a", "b"]}, 100 * 4 * 3 + 9 * 2 * 640),
    ],
)
def test_cost_counts_calls_like_those_of_videos(params: dict[str, object], units: float) -> None:
    assert make_new_training(**params).cost == units


def test_clip_costs_as_much_as_its_frames() -> None:
    pictures = make_new_training(steps=10, batch_size=1, num_frames=16).params
    assert isinstance(pictures, TrainingParams)
    clips = TrainingParams.from_json(
        pictures.to_json() | {"examples": [{"key": "1.mp4", "kind": "clip", "caption": "", "sha256": "ab"}]}
    )

    assert training_units(clips) == 16 * training_units(pictures)


def test_video_sees_the_trainings_that_run_or_are_in_front(store: JobStore, clock: Clock) -> None:
    running = store.submit(make_new_training("a", steps=100, batch_size=1))
    store.submit(make_new_training("b", steps=200, batch_size=1))
    video = store.submit(make_new_job())
    store.submit(make_new_training("c", steps=400, batch_size=1))
    claim, _ = store.claim("w") or pytest.fail("nothing to claim")
    store.report(claim, stage=JobStage.TRAINING, progress=0.5)
    ahead = store.queue_ahead(video)
    assert (ahead.trainings, ahead.training_units, ahead.waiting, ahead.work) == (2, 150 + 600, 1, ())

    store.give_back(claim, wait_seconds=60)  # now it is put off, behind the video
    ahead = store.queue_ahead(video)
    assert (ahead.trainings, ahead.training_units) == (1, 600)
    clock.advance(60)
    assert store.queue_ahead(video).trainings == 2
    assert store.queue_ahead(store.get(running.id)).waiting == 0


def test_caller_sees_only_their_own_trainings(store: JobStore) -> None:
    video, other = store.submit(make_new_job()), store.submit(replace(make_new_training(), api_key_id=None))
    own = OwnTrainings(store, Caller(api_key_id=None))
    stranger = OwnTrainings(store, Caller(api_key_id=7))

    assert [job.id for job in own.list()] == [other.id]
    assert (own.latest("my-snail"), stranger.latest("my-snail"), stranger.list()) == (other, None, [])
    assert (stranger.is_making("my-snail"), stranger.is_making("cutout")) == (True, False)
    for look in (own.get, own.cancel, own.delete):
        with pytest.raises(JobNotFound):
            look(video.id)
    for look in (stranger.get, stranger.cancel, stranger.delete):
        with pytest.raises(JobNotFound):
            look(other.id)
    assert own.cancel(other.id).status is JobStatus.CANCELLED
    assert own.delete(other.id).id == other.id
    assert own.list() == []
