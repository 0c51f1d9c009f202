"""Trainings over HTTP, before a worker has them: what is taken, and what is refused with nothing queued or left behind."""

from __future__ import annotations

import io
import threading
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from promptreel.api.app import AppParts, create_app
from promptreel.errors import ModelInUse
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.jobs.database import Database
from promptreel.jobs.job import AnyJob
from promptreel.jobs.keys import KeyLimits, KeyStore
from promptreel.jobs.store import JobStore
from promptreel.jobs.training_params import ExampleKind, TrainingParams
from promptreel.models.kinds import ModelKind
from promptreel.models.registry import ModelRegistry
from promptreel.models.store import ModelRecord, ModelStore
from promptreel.models.stored_files import StoredFiles
from promptreel.storage.local import LocalStorage
from tests.api.conftest import PLAIN_CARD, write_card
from tests.encoding.files import encode_image, encode_video, make_bars, make_greys
from tests.jobs.factories import make_new_training
from tests.waiting import LONGEST_SECONDS

TRAININGS = "/v1/trainings"
HOSTED = "/api/v3/lora_fine_tune"
PNG = encode_image(make_bars(64, 48))
CLIP = encode_video(make_greys(40, 64), fps=16)
BROKEN = PNG[:100]


def data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{b64encode(data).decode()}"


SHORT = data_uri("video/mp4", encode_video(make_greys(3, 64), fps=8))
PICTURE, VIDEO = data_uri("image/png", PNG), data_uri("video/mp4", CLIP)
SUBJECT: dict[str, Any] = {"id": "my-snail", "trigger": "sks snail", "images": [PICTURE] * 3}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "a.png").write_bytes(PNG)
    (folder / "broken.png").write_bytes(BROKEN)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def fetching_client(services: AppParts, site: str) -> TestClient:
    """A service that is allowed to fetch from `site`."""
    fetcher = SafeFetcher(allow_hosts=["127.0.0.1"], allow_ports=[int(site.rpartition(":")[2])], seconds=LONGEST_SECONDS)
    return TestClient(create_app(replace(services, fetcher=fetcher)), base_url="http://video.test:8000")


def only_job(jobs: JobStore) -> TrainingParams:
    (job,) = jobs.list(kind="training")
    assert isinstance(job.params, TrainingParams)
    return job.params


def stored(storage: LocalStorage, jobs: JobStore) -> list[bytes | None]:
    return [storage.read(example.key) for example in only_job(jobs).examples]


def assert_nothing_is_left(jobs: JobStore, tmp_path: Path) -> None:
    assert jobs.list() == []
    assert [path for path in (tmp_path / "videos").rglob("*") if path.is_file()] == []


def test_training_is_queued_with_its_examples(client: TestClient, jobs: JobStore, storage: LocalStorage) -> None:
    answer = client.post(TRAININGS, json=SUBJECT | {"captions": ["a sks snail", None, ""], "class_prompt": "a snail"})

    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["id"], told["model"], told["status"], told["step"], told["steps"]) == (
        "training_1", "my-snail", "queued", 0, 800,
    )  # fmt: skip
    assert (told["examples"], told["size"], told["queue_position"], told["eta"] > 0) == (3, "96x96", 1, True)
    params = only_job(jobs)
    assert (params.base, params.preset, params.rank, params.motion_adapter) == ("cutout", "subject", 16, None)
    assert (params.instance_prompt, params.trigger, params.sample_prompts) == ("sks snail", "sks snail", ("sks snail",))
    assert [example.caption for example in params.examples] == ["a sks snail", "sks snail", "sks snail"]
    assert {example.kind for example in params.examples} == {ExampleKind.PICTURE}
    assert all(data is not None and data.startswith(b"\x89PNG") for data in stored(storage, jobs))


def test_hosted_words_of_the_documentation(fetching_client: TestClient, jobs: JobStore, site: str) -> None:
    """The example's 18 steps as text, its words for the kind, its seed of 0."""
    answer = fetching_client.post(
        HOSTED,
        json={
            "key": "k", "instance_prompt": "photo of ambika0 man", "class_prompt": "photo of a man",
            "base_model_type": "normal", "negative_prompt": "", "images": [f"{site}/a.png"] * 7, "seed": "0",
            "training_type": "men", "max_train_steps": "18", "lora_type": "lora", "webhook": None,
        },
    ).json()  # fmt: skip

    assert (answer["status"], answer["message"], answer["messege"]) == ("success", "deploying_gpu", "deploying_gpu")
    assert answer["data"].startswith("it will take upto ")
    params = only_job(jobs)
    assert (params.model_id, len(params.model_id)) == (answer["training_id"], 10)
    assert params.model_id.isalnum()
    assert (params.steps, params.seed, params.class_prompt, params.preset) == (18, 0, "photo of a man", "subject")
    assert (len(params.examples), params.instance_prompt, params.trigger) == (7, "photo of ambika0 man", None)


@pytest.mark.parametrize("folder", ["/api/v3", "/api/v1/enterprise"])
@pytest.mark.parametrize(
    ("path", "sent", "preset"),
    [
        ("fine_tune", {}, "dreambooth"),
        ("fine_tune_v2", {"training_type": "null"}, "dreambooth"),
        ("lora_fine_tune", {"training_type": "couple"}, "subject"),
        ("lora_fine_tune", {"training_type": "style"}, "style"),
    ],
)
def test_each_endpoint_has_its_preset(
    client: TestClient, jobs: JobStore, folder: str, path: str, sent: dict[str, Any], preset: str
) -> None:
    answer = client.post(f"{folder}/{path}", json={"instance_prompt": "a", "images": [PICTURE], **sent})

    assert answer.json()["status"] == "success", answer.text
    assert only_job(jobs).preset == preset


def test_numbers_out_of_range_are_moved_and_told(client: TestClient, jobs: JobStore) -> None:
    sent = SUBJECT | {"steps": "1000000", "batch_size": 99, "num_frames": 100, "width": 640, "nonsense": 1}
    ours = client.post(TRAININGS, json=sent).json()
    hosted = client.post(HOSTED, json={"instance_prompt": "a", "images": [PICTURE], "max_train_steps": "-5"}).json()

    assert (ours["steps"], ours["batch_size"], ours["num_frames"], ours["size"]) == (10_000, 16, 48, "96x96")
    assert ours["tip"] == (
        "ignored fields: nonsense. trained at 96x96, not 640x512. steps 1000000 is out of range: 10000 is used. "
        "batch_size 99 is out of range: 16 is used. clips have 48 frames, not 100: cutout learns from so many at once"
    )
    assert "max_train_steps was moved to 1." in hosted["data"]


def test_files_of_a_form_are_examples(client: TestClient, jobs: JobStore, storage: LocalStorage) -> None:
    files = [("images", (f"{number}.png", encode_image(make_bars(64, 40 + number)))) for number in range(3)]
    form = {"trigger": "sks snail", "captions": '["a", "b", "c"]', "steps": "10"}
    assert client.post(TRAININGS, data=form, files=files).status_code == 200

    params = only_job(jobs)
    assert ([example.caption for example in params.examples], params.steps) == (["a", "b", "c"], 10)
    assert len({example.sha256 for example in params.examples}) == 3


@pytest.mark.parametrize("name", ["images[]", "images[0]"])
def test_names_of_forms_are_understood(client: TestClient, jobs: JobStore, name: str) -> None:
    assert client.post(HOSTED, data={"instance_prompt": "a", name: PICTURE}).json()["status"] == "success"
    assert len(only_job(jobs).examples) == 1


def test_uploads_of_this_service_are_examples(client: TestClient, jobs: JobStore) -> None:
    link = client.post("/api/v3/base64_crop", json={"image": PICTURE, "crop": "yes"}).json()["link"]
    answer = client.post(HOSTED, json={"instance_prompt": "a", "images": [link]})

    assert answer.json()["status"] == "success", answer.text


def test_clips_are_for_motion(client: TestClient, jobs: JobStore, storage: LocalStorage) -> None:
    sent = {"trigger": "a wobble", "preset": "motion", "videos": [{"video": VIDEO, "caption": "a ball, a wobble"}]}
    answer = client.post(TRAININGS, json=sent)

    assert answer.status_code == 200, answer.text
    (example,) = only_job(jobs).examples
    assert (example.kind, example.caption, example.key[-9:]) == (ExampleKind.CLIP, "a ball, a wobble", "/0001.mp4")
    assert only_job(jobs).num_frames == 16


def test_repeated_request_gets_its_first_training(client: TestClient, jobs: JobStore, tmp_path: Path) -> None:
    headers = {"Idempotency-Key": "k"}
    first = client.post(TRAININGS, json=SUBJECT, headers=headers).json()
    again = client.post(TRAININGS, json=SUBJECT, headers=headers).json()
    other = client.post(TRAININGS, json=SUBJECT | {"steps": 7}, headers=headers)

    assert (again["id"], other.status_code) == (first["id"], 409)
    assert len(jobs.list()) == 1
    assert len(list((tmp_path / "videos").rglob("*.png"))) == 3


BAD: list[tuple[dict[str, Any], str]] = [
    ({"images": []}, "The images field is required."),
    ({"images": None}, "The images field is required."),
    (
        {"images": [PICTURE] * 4 + [data_uri("image/png", BROKEN)] + [PICTURE] * 5},
        "images: number 5 (a data: URI) cannot be used: the picture cannot be decoded: check the file, or save it again.",
    ),
    ({"images": [PICTURE, "nonsense!"]}, "images: number 2 ('nonsense!') cannot be used: The picture must be a URL"),
    ({"images": [PICTURE, 7]}, "images: number 2 (7) cannot be used: The picture must be a URL"),
    ({"images": ["http://127.0.0.1/a.png"]}, "images: number 1 (http://127.0.0.1/a.png) cannot be used: 127.0.0.1 is not on"),
    ({"images": ["http://169.254.169.254/latest"]}, "not on the public internet"),
    ({"images": ["http://pictures.example/a.png"] * 10_000}, "learns from 1 to 200 pictures, and 10000 were sent."),
    ({"images": [PICTURE, VIDEO]}, "images: number 2 (a data: URI) is not a picture: it is a video, and this preset learns"),
    ({"images": None, "videos": [VIDEO]}, "videos: number 1 (a data: URI) is not a picture: it is a video"),
    ({"preset": "motion", "images": [PICTURE]}, "images: number 1 (a data: URI) is not a clip: it is a picture"),
    ({"preset": "motion", "images": None, "videos": [SHORT]}, "the video is too short: it takes 0.38 s, and 2 s are needed"),
    ({"base": "strange"}, "'strange' is of the family 'another', which the preset 'subject' does not train."),
    ({"base": "a-vae"}, "'a-vae' is a vae: models are trained on a checkpoint."),
    ({"preset": "perfume"}, "There is no preset 'perfume'. Use one of: subject, style, motion, dreambooth."),
    ({"rank": 0}, "The rank must be at least 1."),
    ({"steps": "a"}, "must be an integer."),
    ({"learning_rate": "fast"}, "The learning rate must be a number."),
    ({"lora_type": "loha"}, "The selected lora type is invalid. Use one of: lora, lycoris."),
    ({"id": "../up"}, "begins with a letter or a digit"),
    ({"id": "plain"}, "that of a model's folder"),
    ({"id": "private"}, "is taken"),
    ({"trigger": None}, "The instance prompt field is required"),
    ({"captions": ["one"]}, "The captions must be one for each of the 3 images, not 1."),
    ({"sample_prompts": ["a"] * 4}, "There may be 3 sample prompts"),
    ({"webhook": "http://10.0.0.1/"}, "not on the public internet"),
]  # fmt: skip


@pytest.fixture
def crowded(services: AppParts, database: Database, keys: KeyStore, tmp_path: Path) -> Iterator[TestClient]:
    """A service with models of every sort: of another family, of another key, and one that is no checkpoint."""
    write_card(tmp_path / "models" / "strange", PLAIN_CARD | {"family": "another"})
    store = ModelStore(database)
    other, _ = keys.create("other")
    common: dict[str, Any] = {"family": "animatediff", "base": None, "files": {}, "source": "elsewhere"}
    card = {"name": "A model"}
    store.add(ModelRecord(id="private", kind=ModelKind.CHECKPOINT, card=card, api_key_id=other.id, is_public=False, **common))
    store.add(ModelRecord(id="a-vae", kind=ModelKind.VAE, card=card, **common))
    models = ModelRegistry(
        built_in=tmp_path / "built_in", models_dir=tmp_path / "models", store=store, files=StoredFiles(tmp_path / "model-files")
    )
    _, key = keys.create("k")
    with TestClient(
        create_app(replace(services, models=models)), base_url="http://video.test:8000", headers={"key": key}
    ) as client:
        yield client


@pytest.mark.parametrize(("fields", "says"), BAD, ids=range(len(BAD)))
def test_what_cannot_be_trained_is_refused_by_both_apis(
    crowded: TestClient, jobs: JobStore, tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    words = {"base": "base_model_id", "id": "model_id", "steps": "max_train_steps"}
    ours = SUBJECT | fields
    ours["preset"] = ours.get("preset", "subject")
    standard = crowded.post(TRAININGS, json=ours)
    hosted = crowded.post(HOSTED, json={words.get(name, name): value for name, value in ours.items()})

    assert 400 <= standard.status_code < 500, standard.text
    assert says in standard.json()["error"]["message"]
    assert hosted.json()["status"] == "error"
    assert says in hosted.text.replace('\\"', '"')
    assert_nothing_is_left(jobs, tmp_path)


@pytest.mark.parametrize("base", ["nowhere", "private"])
def test_unknown_base_and_that_of_another_key_are_not_found(
    crowded: TestClient, jobs: JobStore, tmp_path: Path, base: str
) -> None:
    standard = crowded.post(TRAININGS, json=SUBJECT | {"base": base})
    hosted = crowded.post(HOSTED, json={"instance_prompt": "a", "images": [PICTURE], "base_model_id": base}).json()

    assert (standard.status_code, f"There is no model '{base}'" in standard.text) == (404, True)
    assert (hosted["status"], hosted["message"]) == ("error", "Model not found")
    assert_nothing_is_left(jobs, tmp_path)


def test_all_that_is_wrong_with_examples_is_told_at_once(
    fetching_client: TestClient, jobs: JobStore, site: str, tmp_path: Path
) -> None:
    sent = SUBJECT | {"images": [f"{site}/a.png", f"{site}/missing.png", f"{site}/broken.png", PICTURE, VIDEO]}
    wrong = fetching_client.post(HOSTED, json=sent).json()["message"]["images"]

    assert wrong == [
        f"images: number 2 ({site}/missing.png) cannot be used: 127.0.0.1 answered with status 404. Check that the URL can be "
        "opened by anyone.",
        f"images: number 3 ({site}/broken.png) cannot be used: the picture cannot be decoded: check the file, or save it "
        "again.",
        "images: number 5 (a data: URI) is not a picture: it is a video, and this preset learns from pictures.",
    ]
    assert_nothing_is_left(jobs, tmp_path)


def test_nothing_is_fetched_for_a_refused_request(client: TestClient) -> None:
    """Otherwise the private address would be an error, too."""
    answer = client.post(HOSTED, json={"instance_prompt": "a", "images": ["http://127.0.0.1/a.png"], "rank": 0})

    assert list(answer.json()["message"]) == ["rank"]


def test_model_id_is_taken_while_a_training_makes_it(client: TestClient, jobs: JobStore, keys: KeyStore) -> None:
    client.post(TRAININGS, json=SUBJECT)
    taken = client.post(TRAININGS, json=SUBJECT)
    jobs.cancel(1)
    again = client.post(TRAININGS, json=SUBJECT)

    assert (taken.status_code, "training that has not ended" in taken.text) == (400, True)
    assert again.json()["id"] == "training_2"


def test_full_queue_leaves_no_examples(client: TestClient, keys: KeyStore, jobs: JobStore, tmp_path: Path) -> None:
    _, key = keys.create("k", KeyLimits(max_queued=1))
    headers = {"key": key}
    assert client.post(TRAININGS, json=SUBJECT, headers=headers).status_code == 200
    refused = client.post(TRAININGS, json=SUBJECT | {"id": "another"}, headers=headers)

    assert refused.status_code == 429
    assert len(list((tmp_path / "videos").rglob("*.png"))) == 3


def test_few_requests_gather_examples_at_once(services: AppParts, jobs: JobStore, tmp_path: Path) -> None:
    with TestClient(create_app(services)) as client:
        while services.gathering.acquire(blocking=False):
            pass
        busy = client.post(TRAININGS, json=SUBJECT)
        services.gathering.release()
        served, again = client.post(TRAININGS, json=SUBJECT), client.post(TRAININGS, json=SUBJECT | {"id": "another"})

    assert (busy.status_code, busy.json()["error"]["code"], busy.headers["Retry-After"]) == (503, "decoder_busy", "5")
    assert (served.status_code, again.status_code) == (200, 200)
    assert len(jobs.list()) == 2


def test_operator_may_turn_trainings_off(services: AppParts, jobs: JobStore) -> None:
    with TestClient(create_app(replace(services, may_train=False))) as client:
        ours, hosted = client.post(TRAININGS, json=SUBJECT), client.post(HOSTED, json=SUBJECT)

    assert (ours.status_code, "PROMPTREEL_TRAININGS=off" in ours.text) == (501, True)
    assert (hosted.status_code, "PROMPTREEL_TRAININGS=off" in hosted.text) == (200, True)
    assert jobs.list() == []


def test_base_of_a_training_is_not_removed(crowded: TestClient, database: Database, jobs: JobStore) -> None:
    job: AnyJob = jobs.submit(make_new_training(base="private"))
    with pytest.raises(ModelInUse):
        ModelStore(database).remove("private")
    jobs.cancel(job.id)
    assert ModelStore(database).remove("private").id == "private"


def test_noise_is_kept_to_the_pixel(client: TestClient, jobs: JobStore, storage: LocalStorage) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    client.post(TRAININGS, json=SUBJECT | {"images": [data_uri("image/png", encode_image(noise))]})
    (data,) = stored(storage, jobs)
    assert data is not None

    assert (np.asarray(Image.open(io.BytesIO(data))) == noise).all()
