"""Models are imported over HTTP, used, and deleted: a job of another kind, done by the worker beside videos."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import httpx
import pytest

from promptreel.jobs.job import JobStatus
from promptreel.jobs.keys import KeyStore
from promptreel.jobs.webhook_secrets import WebhookSecrets
from tests.fetching.file_host import FileHost, hash_of
from tests.flows.service import SHORT, Service, decode
from tests.generation import original_files as original
from tests.generation.checkpoints import make_tiny_checkpoint
from tests.models.repositories import tiny_adapter
from tests.notify.receiver import Receiver
from tests.waiting import wait_for

SMALL = {**SHORT, "width": 64, "height": 64, "num_inference_steps": 1}


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("models")
    tiny = make_tiny_checkpoint(folder / "tiny")
    (tiny / "promptreel.json").unlink()
    whole = {path.relative_to(tiny).as_posix(): path.read_bytes() for path in tiny.rglob("*") if path.is_file()}
    index = json.loads(whole["model_index.json"])
    index |= {"_class_name": "StableDiffusionPipeline"}
    del index["motion_adapter"]
    of_motion = {name.partition("/")[2]: content for name, content in whole.items() if name.startswith("motion_adapter/")}
    of_vae = {name.partition("/")[2]: content for name, content in whole.items() if name.startswith("vae/")}
    image = {name: content for name, content in whole.items() if not name.startswith("motion_adapter/")}
    return {
        "tiny": whole,
        "image": image | {"model_index.json": json.dumps(index).encode()},
        "motion": of_motion,
        "soft": of_vae,
        "adapter": tiny_adapter(folder / "adapter"),
    }


@pytest.fixture
def host(file_host: FileHost, contents: dict[str, dict[str, bytes]]) -> Iterator[FileHost]:
    for name in ("tiny", "image", "motion", "soft"):
        file_host.repositories[f"ours/{name}"] = contents[name]
    file_host.files["/motion.safetensors"] = contents["adapter"]["diffusion_pytorch_model.safetensors"]
    yield file_host
    file_host.breaks, file_host.holds = [], False
    file_host.is_holding.clear()
    file_host.released.clear()


def post(service: Service, path: str, **fields: object) -> dict[str, Any]:
    answer: dict[str, Any] = service.client.post(service.url + path, json=fields).json()
    return answer


def ids(service: Service, **headers: str) -> list[str]:
    return [model["id"] for model in service.client.get(f"{service.url}/v1/models", headers=headers).json()["data"]]


def ended(service: Service, answer: dict[str, Any], **headers: str) -> dict[str, Any]:
    """The import, once it is over."""

    def look() -> dict[str, Any] | None:
        told = service.client.get(f"{service.url}/v1/models/imports/{answer['id']}", headers=headers).json()
        return told if told["status"] in {"completed", "failed"} else None

    return wait_for(look)


def read_comment(video: bytes) -> dict[str, Any]:
    with av.open(io.BytesIO(video)) as container:
        comment: dict[str, Any] = json.loads(container.metadata["comment"])
    return comment


def test_model_of_a_hub_is_loaded_makes_a_video_and_is_deleted(calling_service: Service, host: FileHost) -> None:
    service = calling_service
    started = post(service, "/api/v3/load_model", url="ours/tiny", model_id="tiny", model_name="Tiny", model_format="diffusers")
    wait_for(lambda: "tiny" in ids(service))
    verified = post(service, "/api/v1/enterprise/verify_model", model_id="tiny")
    entry = next(e for e in post(service, "/api/v4/dreambooth/model_list") if e["model_id"] == "tiny")
    made = service.make(**SMALL, model_id="tiny")
    frames, _ = decode(service.download(made))
    again = post(service, "/api/v3/load_model", url="ours/tiny", model_id="tiny")
    deleted = post(service, "/api/v1/enterprise/delete_model", model_id="tiny")

    assert (started["status"], started["message"]) == ("success", "model load started")
    assert verified["message"] == "model is ready"
    assert (entry["model_name"], entry["status"], entry["model_category"]) == ("Tiny", "model_ready", "checkpoint")
    assert (made["meta"]["model_id"], frames.shape) == ("tiny", (4, 64, 64, 3))
    assert again["message"] == "the model is there already, and was not loaded again"
    assert deleted["status"] == "success"
    assert "tiny" not in ids(service)
    assert service.ask(**SMALL, model_id="tiny")["message"] == "Model not found"
    assert list((service.data_dir / "model-files").glob("?" * 64)) == []


def test_motion_adapter_and_vae_are_models_of_their_own(calling_service: Service, host: FileHost) -> None:
    """A checkpoint without motion is used with the request's adapter: the frames are those of the folder that holds both."""
    service = calling_service
    for name, more in (("tiny", {}), ("image", {}), ("motion", {}), ("soft", {}), ("softened", {"vae": "soft"})):
        source = "ours/image" if name == "softened" else f"ours/{name}"
        done = ended(service, post(service, "/v1/models", source=source, id=name, **more))
        assert done["status"] == "completed", done
    whole = service.make(**SMALL, model_id="tiny")
    parts = [
        service.make(**SMALL, model_id="image", motion_adapter="motion"),
        service.make(**SMALL, model_id="image"),  # the only adapter that fits
        service.make(**SMALL, model_id="softened", motion_adapter="motion"),
    ]
    unknown = service.ask(**SMALL, model_id="image", motion_adapter="nowhere")
    wrong = service.ask(**SMALL, motion_adapter="motion")
    comment = read_comment(service.download(parts[0]))
    blocked = post(service, "/api/v1/enterprise/delete_model", model_id="soft")
    for name in ("softened", "soft", "tiny", "image", "motion"):
        assert post(service, "/api/v1/enterprise/delete_model", model_id=name)["status"] == "success"

    frames = decode(service.download(whole))[0]
    assert [(decode(service.download(part))[0] == frames).all() for part in parts] == [True, True, True]
    assert [part["meta"].get("motion_adapter") for part in (whole, *parts)] == [None, "motion", "motion", "motion"]
    assert (comment["model_id"], comment["motion_adapter"]) == ("image", "motion")
    assert "There is no motion adapter 'nowhere'" in unknown["message"]["motion_adapter"][0]
    assert "do not fit together" in wrong["message"]["motion_adapter"][0]
    assert "softened is made with 'soft'" in blocked["message"]


def test_single_files_of_a_checkpoint_and_an_adapter_make_a_video(
    calling_service: Service, host: FileHost, tmp_path: Path
) -> None:
    """As download pages have them: one file each, in the original layout."""
    service, (unet, vae, text) = calling_service, (original.make_unet(), original.make_vae(), original.make_text_encoder())
    whole = original.original_unet(unet) | original.original_vae(vae) | original.original_text_encoder(text)
    host.files["/toon.safetensors"] = original.save(tmp_path / "a.safetensors", whole).read_bytes()
    adapter = original.original_adapter(original.make_adapter())
    host.files["/download/123"] = original.save(tmp_path / "b.safetensors", adapter).read_bytes()
    host.headers = {"Content-Disposition": 'attachment; filename="v3_sd15_mm.safetensors"'}
    for source, model_id in (("/toon.safetensors", "toon"), ("/download/123", "v3")):
        assert ended(service, post(service, "/v1/models", source=host.url + source, id=model_id))["status"] == "completed"
    host.headers = {}
    made = service.make(**SMALL, model_id="toon")
    frames, _ = decode(service.download(made))
    shown = {model["id"]: model for model in service.client.get(f"{service.url}/v1/models").json()["data"]}
    for name in ("toon", "v3"):
        assert post(service, "/api/v1/enterprise/delete_model", model_id=name)["status"] == "success"

    assert (made["meta"]["motion_adapter"], frames.shape) == ("v3", (4, 64, 64, 3))
    assert [(shown[name]["kind"], shown[name]["base"]) for name in ("toon", "v3")] == [
        ("checkpoint", "unet-32-64"), ("motion_adapter", "unet-32-64"),
    ]  # fmt: skip


def test_webhook_tells_of_an_import(calling_service: Service, host: FileHost, receiver: Receiver) -> None:
    before = len(receiver.messages())
    url = f"{host.url}/motion.safetensors"
    post(calling_service, "/api/v3/load_model", url=url, model_id="motion", webhook=receiver.url(), track_id=7)
    message = wait_for(lambda: receiver.messages()[before:])[0]
    told = message.verify(WebhookSecrets(calling_service.database).of_installation())
    post(calling_service, "/api/v1/enterprise/delete_model", model_id="motion")

    assert told == {
        "status": "success", "track_id": 7, "id": told["id"], "model_id": "motion", "message": "model is ready",
        "webhook_type": "load_model",
    }  # fmt: skip


def test_running_import_is_shown_and_cancelled_and_holds_no_video_up(calling_service: Service, host: FileHost) -> None:
    service, weights = calling_service, host.files["/motion.safetensors"]
    host.breaks, host.holds = [len(weights) // 2], True
    started = post(service, "/v1/models", source=f"{host.url}/motion.safetensors", id="halfway")
    assert host.is_holding.wait(60)
    service.make(**SMALL)
    running = wait_for(
        lambda: (
            told
            if (told := service.client.get(f"{service.url}/v1/models/imports/{started['id']}").json())["progress"] > 0
            else None
        )
    )
    asked = post(service, "/api/v1/enterprise/verify_model", model_id="halfway")["message"]
    post(service, f"/v1/models/imports/{started['id']}/cancel")
    cancelled = ended(service, started)

    assert (running["status"], running["model"]) == ("in_progress", "halfway")
    assert "still being imported" in asked["model_id"][0]
    assert cancelled["error"]["code"] == "cancelled"
    assert "halfway" not in ids(service)
    wait_for(lambda: not any((service.data_dir / "scratch" / "imports").iterdir()))


def test_import_goes_on_after_its_worker_was_killed(calling_service: Service, host: FileHost) -> None:
    service, weights = calling_service, host.files["/motion.safetensors"]
    host.breaks, host.holds = [len(weights) // 2], True
    started = post(service, "/v1/models", source=f"{host.url}/motion.safetensors", id="killed", sha256=hash_of(weights))
    kept = service.data_dir / "scratch" / "imports"
    wait_for(lambda: sum(path.stat().st_size for path in kept.rglob("content")) == len(weights) // 2)
    host.asked.clear()
    service.child("worker").kill()
    host.released.set()
    done = ended(service, started)
    job = service.jobs.get(int(started["id"].removeprefix("import_")))
    service.client.delete(f"{service.url}/v1/models/killed")

    assert (done["status"], job.attempt, job.status) == ("completed", 2, JobStatus.SUCCEEDED)
    assert host.ranges_asked() == [f"bytes={len(weights) // 2}-"]


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"source": "/none.safetensors"}, "url_unusable", "status 404"),
        ({"source": "/motion.safetensors", "sha256": "0" * 64}, "checkpoint_unusable", "another file"),
        ({"source": "/motion.safetensors", "kind": "vae"}, "checkpoint_unusable", "is a motion adapter, not a VAE"),
        ({"source": "/rubbish.safetensors"}, "checkpoint_unusable", "no safetensors file"),
        ({"source": "/old"}, "checkpoint_unusable", "no safetensors file"),
    ],
)
def test_failed_import_says_why_and_leaves_nothing(
    calling_service: Service, host: FileHost, fields: dict[str, str], code: str, says: str
) -> None:
    host.files |= {"/rubbish.safetensors": b"\xff" * 100, "/old": b"PK\x03\x04" * 100}
    started = post(calling_service, "/v1/models", **fields | {"source": host.url + fields["source"], "id": "wrong"})
    failed = ended(calling_service, started)
    verified = post(calling_service, "/api/v1/enterprise/verify_model", model_id="wrong")

    assert (failed["status"], failed["error"]["code"]) == ("failed", code)
    assert says in failed["error"]["message"]
    assert says in verified["message"]
    assert "wrong" not in ids(calling_service)


def test_private_model_is_its_owners_alone(calling_service: Service, host: FileHost) -> None:
    """Another key's model answers as an unknown id, on every path; a public one is seen by all, and deleted by its owner."""
    service = calling_service
    store = KeyStore(service.database)
    made, mine = store.create("mine")
    other, theirs = store.create("theirs")
    wait_for(service.is_closed)
    try:
        started = [
            service.client.post(
                f"{service.url}/v1/models",
                json={"source": "ours/tiny", "id": name, "visibility": visibility},
                headers={"key": mine},
            ).json()
            for name, visibility in (("secret", "private"), ("shared", "public"))
        ]
        for each in started:
            assert ended(service, each, key=mine)["status"] == "completed"
        seen = ids(service, key=mine), ids(service, key=theirs)
        answers = [_asked(service, model_id, theirs) for model_id in ("secret", "nowhere")]
        wanted = {"source": "ours/tiny", "id": "secret"}
        taken = service.client.post(f"{service.url}/v1/models", json=wanted, headers={"key": theirs})
        not_theirs = service.client.delete(f"{service.url}/v1/models/shared", headers={"key": theirs})
        theirs_shown = service.client.get(f"{service.url}/v1/models/shared", headers={"key": theirs})
        not_their_import = service.client.get(f"{service.url}/v1/models/imports/{started[0]['id']}", headers={"key": theirs})
        deleted = [
            service.client.delete(f"{service.url}/v1/models/{name}", headers={"key": mine}).status_code
            for name in ("secret", "shared")
        ]
    finally:
        for key in (made, other):
            store.revoke(str(key.id))
        wait_for(lambda: not service.is_closed())

    assert [name in seen[0] for name in ("secret", "shared")] == [True, True]
    assert [name in seen[1] for name in ("secret", "shared")] == [False, True]
    assert answers[0] == answers[1]
    assert (taken.status_code, "is taken" in taken.text) == (400, True)
    assert (not_theirs.status_code, theirs_shown.status_code, not_their_import.status_code) == (501, 200, 404)
    assert deleted == [200, 200]


def _asked(service: Service, model_id: str, key: str) -> list[tuple[int, str]]:
    """What each path that takes a model's id answers, without the id itself."""
    v1 = f"{service.url}/v1/models/{model_id}"
    headers = {"key": key}
    fields = {"key": key, "model_id": model_id, "model": model_id, "prompt": "a"}
    paths = (
        "/api/v1/enterprise/verify_model", "/api/v1/enterprise/delete_model", "/api/v4/dreambooth/model_reload",
        "/api/v4/dreambooth/text2video", "/api/v7/video-fusion/text-to-video", "/v1/videos",
    )  # fmt: skip
    told: list[httpx.Response] = [service.client.get(v1, headers=headers), service.client.delete(v1, headers=headers)]
    told += [service.client.get(f"{service.url}/api/agents/v1/models/{model_id}", headers=headers)]
    told += [service.client.post(service.url + path, json=fields) for path in paths]
    return [(answer.status_code, answer.text.replace(model_id, "ID")) for answer in told]
