"""What a training's caller sees of it, while a worker (here: the test, through the store) has it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from promptreel.api.app import AppParts, create_app
from promptreel.api.parts import Services, Shared
from promptreel.api.v1.training_events import TrainingWatcher
from promptreel.api.webhook_bodies import to_webhook
from promptreel.jobs.database import Database
from promptreel.jobs.job import Claim, JobStage, Result
from promptreel.jobs.keys import LOCAL_CALLER, KeyStore
from promptreel.jobs.links import LinkMaker
from promptreel.jobs.store import JobStore
from promptreel.jobs.training_params import training_source
from promptreel.jobs.views import OwnChanges, OwnImports, OwnJobs, OwnTrainings
from promptreel.models.kinds import ModelKind
from promptreel.models.registry import ModelRegistry
from promptreel.models.store import ModelRecord, ModelStore
from promptreel.models.stored_files import StoredFiles
from promptreel.storage.local import LocalStorage
from tests.api.test_openai import VIDEOS
from tests.api.test_trainings import CLIP, HOSTED, PICTURE, SUBJECT, TRAININGS

REPORT: dict[str, Any] = {
    "steps": 800,
    "step": 100,
    "loss": 0.125,
    "seconds_per_step": 0.5,
    "checkpoint": "step-000100",
    "checkpoint_step": 100,
    "samples": [{"step": 0, "prompt": "sks snail", "key": ""}, {"step": 100, "prompt": "sks snail", "key": ""}],
    "validation": [{"step": 100, "loss": 0.2, "ratio": 0.97}],
    "log": ["Step 100 of 800, loss 0.1250."],
}


def begin(jobs: JobStore) -> Claim:
    claimed = jobs.claim("worker-1")
    assert claimed is not None
    return claimed[0]


def report(jobs: JobStore, storage: LocalStorage, claim: Claim, **told: Any) -> dict[str, Any]:
    """As a worker reports at step 100, with two samples in storage."""
    prefix = jobs.get(claim.job_id).file_prefix
    samples = [sample | {"key": f"{prefix}/samples/{sample['step']:06d}-0.mp4"} for sample in REPORT["samples"]]
    for sample in samples:
        storage.save_bytes(CLIP, sample["key"])
    whole = REPORT | {"samples": samples} | told
    jobs.report(claim, stage=JobStage.TRAINING, progress=whole["step"] / 800, report=whole)
    return whole


def finish(jobs: JobStore, storage: LocalStorage, claim: Claim) -> None:
    key = f"{jobs.get(claim.job_id).file_prefix}/{claim.attempt}.json"
    storage.save_bytes(b"{}", key)
    jobs.finish(claim, Result(key=key, size_bytes=2, sha256="ab" * 32, facts={}))


def start_hosted(client: TestClient) -> str:
    body = {"instance_prompt": "sks snail", "images": [PICTURE], "model_id": "my-snail", "track_id": 7, "max_train_steps": 800}
    return client.post(HOSTED, json=body | {"webhook": "https://example.com/told"}).json()["training_id"]


def test_hosted_states_follow_the_training(client: TestClient, jobs: JobStore, storage: LocalStorage) -> None:
    training_id = start_hosted(client)
    states = []

    def look() -> dict[str, Any]:
        told = client.post(f"/api/v3/fine_tune_status/{training_id}", json={"key": "k"}).json()
        assert told["message"] == told["messege"] == told["model_training_status"]
        states.append(told["message"])
        return told

    waiting = look()
    claim = begin(jobs)
    look()
    report(jobs, storage, claim)
    running = look()
    jobs.give_back(claim, wait_seconds=0)  # for a video
    look()
    claim = begin(jobs)
    report(jobs, storage, claim, step=800)
    look()
    jobs.report(claim, stage=JobStage.STORING, progress=1.0)
    look()
    finish(jobs, storage, claim)
    ended = look()

    assert states == [
        "deploying_gpu", "training_started", "training_started", "training_started", "training_success",
        "trained_model_uploading", "model_ready",
    ]  # fmt: skip
    assert (waiting["test_image"], waiting["status"], waiting["eta"] > 0) == (None, "success", True)
    assert (running["eta"], running["data"].splitlines()) == (
        350,
        ["Step 100 of 800, loss 0.1250.", "Step:100 of 800 : ETA : 6 minutes"],
    )
    assert (ended["eta"], ended["data"].splitlines()[-1], ended["model_id"]) == (0, "Model loaded successfully", training_id)
    picture = client.get(ended["test_image"])
    assert (picture.headers["Content-Type"], picture.content[8:12]) == ("image/webp", b"WEBP")


def test_failed_and_cancelled_trainings_say_why(client: TestClient, jobs: JobStore) -> None:
    start_hosted(client)
    jobs.fail(begin(jobs), code="training_failed", message="The loss was no number.")
    failed = client.post("/api/v3/fine_tune_status/my-snail").json()
    start_hosted(client)
    cancelling = client.post("/api/v3/cancle_training/my-snail").json()
    cancelled = client.post("/api/v3/fine_tune_status/my-snail").json()
    again = client.post("/api/v3/cancel_training/my-snail").json()

    assert (failed["status"], failed["message"], failed["data"]) == ("failed", "training_failed", "The loss was no number.")
    assert (cancelling["status"], cancelling["message"]) == ("success", "training cancelled")
    assert (cancelled["status"], cancelled["message"], cancelled["data"]) == ("failed", "training_cancelled", "Cancelled")
    assert again["message"] == "the training has ended already: training_cancelled"


def test_unknown_training_is_answered_as_an_unknown_request(client: TestClient) -> None:
    for path in ("fine_tune_status/x", "cancle_training/x", "cancel_training/x", "finetune/delete/x"):
        for folder in ("/api/v3", "/api/v1/enterprise"):
            assert client.post(f"{folder}/{path}").json()["message"] == "Request not found"


def test_list_has_the_newest_first(client: TestClient, jobs: JobStore) -> None:
    assert client.post("/api/v3/finetune_list", json={"key": "k"}).json() == {
        "status": "success", "message": "model list", "messege": "model list", "data": [],
    }  # fmt: skip
    start_hosted(client)
    client.post(TRAININGS, json=SUBJECT | {"id": "second"})
    begin(jobs)
    data = client.post("/api/v1/enterprise/finetune_list").json()["data"]

    assert [(each["training_id"], each["status"]) for each in data] == [
        ("second", "deploying_gpu"),
        ("my-snail", "training_started"),
    ]


def test_hosted_delete_takes_the_model_that_was_made_and_no_other(
    services: AppParts, database: Database, jobs: JobStore, storage: LocalStorage, tmp_path: Path
) -> None:
    store, files = ModelStore(database), StoredFiles(tmp_path / "model-files")
    models = ModelRegistry(built_in=tmp_path / "built_in", models_dir=tmp_path / "models", store=store, files=files)
    common: dict[str, Any] = {"kind": ModelKind.LORA, "family": "animatediff", "base": None, "card": {"name": "A"}, "files": {}}
    with TestClient(create_app(replace(services, models=models))) as client:
        for source, left in ((training_source(1), []), ("https://models.example/m", ["my-snail"])):
            start_hosted(client)
            finish(jobs, storage, begin(jobs))
            store.add(ModelRecord(id="my-snail", source=source, **common), replace=True)
            assert client.post("/api/v3/finetune/delete/my-snail").json()["message"] == "training deleted"
            assert [record.id for record in store.list()] == left


@pytest.mark.parametrize("has_begun", [False, True])
def test_deleted_training_leaves_no_file(
    client: TestClient, jobs: JobStore, storage: LocalStorage, tmp_path: Path, has_begun: bool
) -> None:
    for delete in ("POST /api/v3/finetune/delete/my-snail", "DELETE /v1/trainings/training_{}"):
        start_hosted(client)
        job_id = jobs.list()[0].id
        if has_begun:
            claim = begin(jobs)
            report(jobs, storage, claim)
            finish(jobs, storage, claim)
        method, _, path = delete.partition(" ")
        answer = client.request(method, path.format(job_id))

        assert answer.status_code == 200, answer.text
        assert jobs.list() == []
        assert [each for each in (tmp_path / "videos").rglob("*") if each.is_file()] == []


def test_training_in_our_words(client: TestClient, jobs: JobStore, storage: LocalStorage) -> None:
    client.post(TRAININGS, json=SUBJECT)
    claim = begin(jobs)
    report(jobs, storage, claim)
    running = client.get(f"{TRAININGS}/training_1").json()
    clip = client.get(f"{TRAININGS}/training_1/samples/1")
    part = client.get(f"{TRAININGS}/training_1/samples/0", headers={"Range": "bytes=0-3"})

    expected = {"status": "in_progress", "progress": 12, "stage": "training", "step": 100, "loss": 0.125, "eta": 350}
    assert expected.items() <= running.items()
    assert running["samples"] == [
        {"number": 0, "step": 0, "prompt": "sks snail"},
        {"number": 1, "step": 100, "prompt": "sks snail"},
    ]
    assert (running["validation"], running["log"]) == (REPORT["validation"], REPORT["log"])
    assert (clip.content, clip.headers["Content-Type"], part.status_code) == (CLIP, "video/mp4", 206)
    for number in ("2", "-1", "x", "9" * 30):
        missing = client.get(f"{TRAININGS}/training_1/samples/{number}")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "content_unavailable")

    cancelled = client.post(f"{TRAININGS}/training_1/cancel").json()
    assert cancelled["status"] == "in_progress"  # until its worker stops
    jobs.acknowledge_cancel(claim)
    assert client.get(f"{TRAININGS}/training_1").json()["error"] == {"code": "cancelled", "message": "Cancelled"}


def test_list_pages_like_that_of_videos(client: TestClient) -> None:
    for number in range(3):
        client.post(TRAININGS, json=SUBJECT | {"id": f"snail-{number}"})
    client.post(VIDEOS, json={"prompt": "a"})
    page = client.get(TRAININGS, params={"limit": 2}).json()
    rest = client.get(TRAININGS, params={"after": page["last_id"]}).json()
    wrong = client.get(TRAININGS, params={"after": "video_4"})

    assert ([each["model"] for each in page["data"]], page["has_more"]) == (["snail-2", "snail-1"], True)
    assert ([each["model"] for each in rest["data"]], rest["has_more"]) == (["snail-0"], False)
    assert 'such as "training_17"' in wrong.json()["error"]["message"]


def services_of_local_caller(parts: AppParts) -> Services:
    shared = {name: getattr(parts, name) for name in Shared.__dataclass_fields__}
    views = {"jobs": OwnJobs, "imports": OwnImports, "trainings": OwnTrainings}
    own = {name: view(parts.jobs, LOCAL_CALLER) for name, view in views.items()}
    changes = OwnChanges(parts.changes, LOCAL_CALLER)
    return Services(**shared, **own, changes=changes, caller=LOCAL_CALLER)  # type: ignore[arg-type]


def test_events_tell_each_change_once(client: TestClient, services: AppParts, jobs: JobStore, storage: LocalStorage) -> None:
    client.post(TRAININGS, json=SUBJECT)
    watcher = TrainingWatcher(services_of_local_caller(services), 1)

    def look() -> list[tuple[str, Any]]:
        return [(event.name, event.data) for event in watcher.look()]

    first = look()
    assert [name for name, _ in first] == ["stage", "progress"]
    assert look() == []
    claim = begin(jobs)
    whole = report(jobs, storage, claim)
    told = look()
    assert [name for name, _ in told] == ["stage", "progress", "checkpoint", "validation", "sample", "sample", "log"]
    assert told[1][1] == {
        "progress": 12, "step": 100, "steps": 800, "loss": 0.125, "seconds_per_step": 0.5, "queue_position": 0, "eta": 350,
    }  # fmt: skip
    assert (told[2][1], told[5][1]) == ({"step": 100}, {"number": 1, "step": 100, "prompt": "sks snail"})

    jobs.report(claim, stage=JobStage.TRAINING, progress=0.25, report=whole | {"step": 200, "log": ["two", "three"]})
    assert [(name, data.get("line")) for name, data in look()] == [("progress", None), ("log", "two"), ("log", "three")]
    jobs.report(claim, stage=JobStage.TRAINING, progress=0.25, report=whole | {"step": 200, "log": ["three", "four"]})
    assert look() == [("log", {"line": "four"})]  # the oldest line left the log

    finish(jobs, storage, claim)
    assert [name for name, _ in look()] == ["stage", "progress", "end"]
    jobs.delete(1)
    assert look() == [("end", {"id": "training_1", "object": "training.deleted", "deleted": True})]


def test_events_of_an_ended_training_are_its_end(client: TestClient, jobs: JobStore, storage: LocalStorage) -> None:
    client.post(TRAININGS, json=SUBJECT)
    claim = begin(jobs)
    report(jobs, storage, claim)
    finish(jobs, storage, claim)
    answer = client.get(f"{TRAININGS}/training_1/events")

    blocks = [block.split("\n") for block in answer.text.strip().split("\n\n")]
    events = [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert events[0] == ("stage", {"status": "completed", "stage": None})
    assert events[-1] == ("end", client.get(f"{TRAININGS}/training_1").json())


def test_webhooks_speak_the_words_of_the_request(client: TestClient, jobs: JobStore, storage: LocalStorage) -> None:
    start_hosted(client)
    client.post(TRAININGS, json=SUBJECT | {"id": "another", "webhook": "https://example.com/told"})
    finish(jobs, storage, begin(jobs))
    jobs.fail(begin(jobs), code="training_failed", message="The loss was no number.")
    hosted, ours = (to_webhook(jobs.get(job_id), "msg_1", LinkMaker(secret=b"s")) for job_id in (1, 2))

    assert hosted == {
        "status": "success", "track_id": 7, "id": 1, "training_id": "my-snail", "model_id": "my-snail",
        "model_training_status": "model_ready", "message": "model_ready", "messege": "model_ready", "webhook_type": "training",
    }  # fmt: skip
    assert (ours["type"], ours["data"]["id"]) == ("training.failed", "training_2")
    assert ours["data"]["error"] == {"code": "training_failed", "message": "The loss was no number."}


def test_trainings_of_another_key_are_unknown(client: TestClient, keys: KeyStore, jobs: JobStore) -> None:
    owner, other = ({"key": keys.create(name)[1]} for name in ("owner", "other"))
    assert client.post(TRAININGS, json=SUBJECT, headers=owner).status_code == 200
    before = jobs.list()

    assert client.get(TRAININGS, headers=other).json()["data"] == []
    assert client.post("/api/v3/finetune_list", headers=other).json()["data"] == []
    for path in ("fine_tune_status", "cancle_training", "finetune/delete"):
        answer = client.post(f"/api/v3/{path}/my-snail", headers=other)
        assert answer.content == client.post(f"/api/v3/{path}/nothing", headers=other).content
    taken = client.post(TRAININGS, json=SUBJECT, headers=other)
    assert (taken.status_code, "that has not ended" in taken.text) == (400, True)
    assert jobs.list() == before
    assert client.post("/api/v3/fine_tune_status/my-snail", headers=owner).json()["status"] == "success"
