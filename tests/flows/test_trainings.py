"""Trainings as jobs of a real service: whatever is killed, they end with the same bits, and videos get their turn."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from safetensors.numpy import load_file

from promptreel.jobs.job import AnyJob, JobStatus, NewJob
from promptreel.jobs.training_params import Example, ExampleKind, TrainingParams
from promptreel.models.store import ModelStore
from promptreel.storage.local import LocalStorage
from tests.flows.service import SHORT, Service
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

COLORS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("training"), training_slice_seconds=1, training_checkpoint_seconds=1)
    service.start()
    yield service
    service.stop()


def submit(service: Service, model_id: str, **params: Any) -> AnyJob:
    storage = LocalStorage(service.data_dir / "results")
    examples = []
    for number, color in enumerate(COLORS):
        file = io.BytesIO()
        Image.new("RGB", (32, 32), color).save(file, "PNG")
        key = f"trainings/{number}.png"
        storage.save_bytes(file.getvalue(), key)
        examples.append(Example(key, ExampleKind.PICTURE, "", hashlib.sha256(file.getvalue()).hexdigest()))
    wanted = TrainingParams(
        model_id=model_id,
        preset="subject",
        examples=tuple(examples),
        instance_prompt="zork",
        **{"base": "cutout", "rank": 4, "batch_size": 1, "learning_rate": 1e-3, **params},
    )
    return service.jobs.submit(NewJob(params=wanted, request={"dialect": "openai"}, cost=1.0))


def step_of(service: Service, job: AnyJob) -> int:
    return int((service.jobs.get(job.id).report or {}).get("checkpoint_step", 0))


def trainer_of(service: Service) -> psutil.Process:
    """The process that trains, once there is one."""

    def find() -> psutil.Process | None:
        children = [each for each in service.child("worker").children() if each.status() != psutil.STATUS_ZOMBIE]
        return next((each for each in children if "promptreel.training.child" in each.cmdline()), None)

    return wait_for(find)


def weights_of(service: Service, model_id: str) -> dict[str, np.ndarray]:
    record = ModelStore(service.database).find(model_id)
    assert record is not None
    (file,) = record.files.values()
    return load_file(service.data_dir / "model-files" / file.sha256)


def test_training_of_killed_processes_ends_with_the_bits_of_one_that_was_left_alone(service: Service) -> None:
    left_alone = submit(service, "left-alone", steps=60)
    wait_for(lambda: service.jobs.get(left_alone.id).is_final)
    killed = submit(service, "killed", steps=60)
    wait_for(lambda: step_of(service, killed) > 0)
    first = trainer_of(service)
    first.kill()
    wait_for(lambda: trainer_of(service) != first)
    service.child("worker").kill()

    wait_for(lambda: service.jobs.get(killed.id).is_final)

    ended = service.jobs.get(killed.id)
    assert (ended.status, ended.attempt) == (JobStatus.SUCCEEDED, 2), ended.error_message
    expected, found = weights_of(service, "left-alone"), weights_of(service, "killed")
    assert expected.keys() == found.keys()
    assert all(expected[name].tobytes() == found[name].tobytes() for name in expected)
    assert not list((service.data_dir / "trainings" / ended.file_prefix).glob("1"))


def test_video_gets_its_turn_and_a_cancelled_training_keeps_its_model(service: Service) -> None:
    training = submit(service, "endless", steps=10_000)
    wait_for(lambda: step_of(service, training) > 0)

    service.make(**SHORT)
    turn = service.jobs.get(training.id)
    assert turn.crashes == 0
    assert any(each.outcome == "given_back" for each in service.jobs.list_attempts(training.id))
    wait_for(lambda: step_of(service, training) > (turn.report or {})["checkpoint_step"])
    service.jobs.cancel(training.id)
    wait_for(lambda: service.jobs.get(training.id).is_final)

    assert service.jobs.get(training.id).status is JobStatus.CANCELLED
    record = ModelStore(service.database).find("endless")
    assert record is not None
    assert record.card["trained"]["is_complete"] is False
    assert 0 < record.card["trained"]["step"] < 10_000
    with_it = service.make(**SHORT, model_id="endless")
    assert service.download(with_it) != service.download(service.make(**SHORT))


def test_training_that_cannot_run_fails_with_the_reason(service: Service, tmp_path: Path) -> None:
    job = submit(service, "no-base", base="nothing")
    wait_for(lambda: service.jobs.get(job.id).is_final)

    ended = service.jobs.get(job.id)
    assert (ended.status, ended.error_code) == (JobStatus.FAILED, "model_not_found")
