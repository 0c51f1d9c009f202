"""The vendor's first Python package, as it is on PyPI, trains: only its address is another one."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest
from modelslab import ModelsLab
from modelslab.train_model import TrainModel

from tests.encoding.files import encode_image, make_bars
from tests.flows.service import Service

KEY = "any"


@pytest.fixture
def train_model(service: Service) -> TrainModel:
    found: TrainModel = ModelsLab().train_model
    found.base_url = f"{service.url}/api/v3"
    return found


def upload(train_model: TrainModel, number: int) -> str:
    picture = b64encode(encode_image(make_bars(64, 40 + number))).decode()
    told: str = json.loads(train_model.base64_crop(KEY, f"data:image/png;base64,{picture}", "false"))["link"]
    return told


def submit(train_model: TrainModel, images: list[str], **changed: Any) -> dict[str, Any]:
    """With the documentation's example: all numbers are texts."""
    body = {
        "instance_prompt": "photo of ambika0 man", "class_prompt": "photo of a man", "base_model_type": "normal",
        "negative_prompt": "", "seed": "0", "training_type": "men", "max_train_steps": "2000", "lora_type": "lora",
        "webhook": None,
    }  # fmt: skip
    told: dict[str, Any] = json.loads(train_model.lora_training(KEY, images=images, **(body | changed)))
    return told


def test_package_trains_on_its_uploads(service: Service, train_model: TrainModel) -> None:
    with service.no_job_begins():
        started = submit(train_model, [upload(train_model, number) for number in range(7)])
        training_id = started["training_id"]
        status = json.loads(train_model.fetch_queued(KEY, training_id))
        listed = json.loads(train_model.finetune_list(KEY))
        (job,) = [job for job in service.jobs.list(kind="training") if job.params.model_id == training_id]
        cancelled = json.loads(train_model.cancel_training(KEY, training_id))
        after = json.loads(train_model.fetch_queued(KEY, training_id))
        deleted = json.loads(train_model.delete_training(KEY, training_id))
        gone = json.loads(train_model.fetch_queued(KEY, training_id))

    assert (started["status"], started["messege"]) == ("success", "deploying_gpu")
    assert started["data"].startswith("it will take upto ")
    assert (status["status"], status["messege"]) == ("success", "deploying_gpu")
    assert [each["model_id"] for each in listed["data"]] == [training_id]
    assert (len(job.params.examples), job.params.steps, job.params.base) == (7, 2000, "cutout")
    assert (cancelled["messege"], after["messege"]) == ("training cancelled", "training_cancelled")
    assert (deleted["messege"], gone["messege"]) == ("training deleted", "Request not found")
    assert service.jobs.list(kind="training") == []


def test_package_hears_what_is_wrong(service: Service, train_model: TrainModel) -> None:
    refused = submit(train_model, ["http://127.0.0.1:1/a.png"], base_model_type="sdxl")
    private = submit(train_model, ["http://127.0.0.1:1/a.png"], max_train_steps="a")
    unreachable = submit(train_model, ["http://127.0.0.1:1/a.png"])

    assert refused["message"] == {"base_model_type": ["There is no default base for sdxl: name a model in base_model_id."]}
    assert private["message"] == {"max_train_steps": ["The max train steps must be an integer."]}
    assert unreachable["message"]["images"][0].startswith("images: number 1 (http://127.0.0.1:1/a.png) cannot be used: ")
    assert service.jobs.list(kind="training") == []
