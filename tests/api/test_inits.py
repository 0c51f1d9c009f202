"""`init_image` and `init_video`: the file is checked, stored under its hash, and then named by the job."""

from __future__ import annotations

import hashlib
import json
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

from promptreel.api.app import AppParts, create_app
from promptreel.encoding.decoder import Decoder
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.jobs.store import JobStore
from promptreel.storage.local import LocalStorage
from tests.api.conftest import SUBMIT
from tests.api.test_text2video import errors, submit
from tests.encoding.files import encode_image, encode_video, make_bars, make_greys
from tests.waiting import LONGEST_SECONDS

PNG = encode_image(make_bars())
MP4 = encode_video(make_greys(3))
GIF = encode_image(make_greys(3), "GIF")
MEGABYTE = 1024 * 1024


def data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{b64encode(data).decode()}"


def stored_files(tmp_path: Path) -> list[str]:
    root = tmp_path / "videos"
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("field", "media_type", "data", "ending"),
    [
        ("init_image", "image/png", PNG, "png"),
        ("init_image", "image/jpg", encode_image(make_bars(), "JPEG"), "jpg"),
        ("init_image", "image/gif", GIF, "gif"),
        ("init_video", "image/gif", GIF, "gif"),
        ("init_video", "video/mp4;codecs=avc1", MP4, "mp4"),
    ],
)
def test_init_is_stored_before_the_job_names_it(
    client: TestClient,
    jobs: JobStore,
    storage: LocalStorage,
    tmp_path: Path,
    field: str,
    media_type: str,
    data: bytes,
    ending: str,
) -> None:
    answer = submit(client, **{field: data_uri(media_type, data)})
    key = jobs.get(answer["id"]).params.init_key

    assert answer["meta"][field] == "yes"
    assert key == f"inits/{field.removeprefix('init_')}/{hashlib.sha256(data).hexdigest()}.{ending}"
    assert stored_files(tmp_path) == [key]
    assert storage.read(key) == data
    for told in (answer, client.post(answer["fetch_result"]).json(), jobs.get(answer["id"]).request):
        assert "base64" not in json.dumps(told)


def test_request_without_an_init_names_none(client: TestClient, jobs: JobStore) -> None:
    answer = submit(client, init_image=None, init_video="", strength=0.3)

    assert not {"init_image", "init_video"} & answer["meta"].keys()
    assert jobs.get(answer["id"]).params.init_key is None


def test_init_in_a_form_arrives_whole(client: TestClient, jobs: JobStore, storage: LocalStorage) -> None:
    """Including a URL-encoded form with unescaped pluses, and base64 with line breaks."""
    uri = data_uri("image/png", PNG)
    assert "+" in uri
    lines = "\r\n".join(uri[start : start + 76] for start in range(0, len(uri), 76))
    unescaped = f"prompt=a cat&init_image={uri}".replace("=a cat", "=a+cat")
    for sent in (
        {"data": {"prompt": "a cat", "init_image": uri}},
        {"content": unescaped},
        {"json": {"prompt": "a cat", "init_image": lines}},
        {"files": {"prompt": (None, "a cat"), "init_image": (None, data_uri("image/png", encode_image(make_noise())))}},
    ):
        answer = client.post(SUBMIT, **sent).json()
        assert answer["status"] == "processing", answer
        assert storage.read(jobs.get(answer["id"]).params.init_key or "").startswith(b"\x89PNG")


def make_noise() -> np.ndarray:
    """A picture whose part of a form is longer than a megabyte."""
    return np.random.default_rng(0).integers(0, 255, (600, 700, 3), np.uint8)


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"init_image": 5}, "init_image", "The init image must be a URL or a data: URI, such as data:image/png;base64,..."),
        ({"init_video": "/etc/passwd"}, "init_video", "The init video must be a URL or a data: URI, such as data:video"),
        ({"init_image": "data:image/png,abc"}, "init_image", "The init image must be a URL or a data: URI"),
        ({"init_image": "data:image/svg+xml;base64,AAAA"}, "init_image", "The init image must be one of image/png, image"),
        ({"init_image": data_uri("video/mp4", MP4)}, "init_image", "The init image must be one of image/png, image"),
        ({"init_image": "data:image/png;base64,iVBOR*w0KGg"}, "init_image", "The init image is not valid base64."),
        ({"init_image": "http://127.0.0.1/a.png"}, "init_image", "127.0.0.1 is not on the public internet"),
        ({"init_video": "http://169.254.169.254/a.mp4"}, "init_video", "169.254.169.254 is not on the public internet"),
        ({"init_image": data_uri("image/png", b"hello")}, "init_image", "The init image must be one of image/png, image"),
        ({"init_video": data_uri("video/mp4", MP4[:40])}, "init_video", "The init video cannot be decoded"),
        ({"init_image": "x", "init_video": "y"}, "init_video", "Send init_image or init_video, not both."),
    ],
)  # fmt: skip
def test_init_that_cannot_be_used_is_refused_and_not_kept(
    client: TestClient, jobs: JobStore, tmp_path: Path, fields: dict[str, Any], field: str, message: str
) -> None:
    found = errors(client, **fields)

    assert list(found) == [field]
    assert message in found[field][0]
    assert jobs.list() == []
    assert stored_files(tmp_path) == []


@pytest.mark.parametrize(
    ("field", "data", "media_type", "most"), [("init_image", PNG, "image/png", 5), ("init_video", MP4, "video/mp4", 20)]
)
def test_init_may_be_as_large_as_documented_and_no_larger(
    client: TestClient, field: str, data: bytes, media_type: str, most: int
) -> None:
    fits, too_large = (data_uri(media_type, data.ljust(most * MEGABYTE + more, b"\0")) for more in (0, 1))

    assert submit(client, **{field: fits})["meta"][field] == "yes"
    assert errors(client, **{field: too_large}) == {
        field: [f"The {field.replace('_', ' ')} must not be greater than {most} MB."]
    }


def test_init_of_a_request_refused_for_another_reason_is_not_kept(client: TestClient, tmp_path: Path) -> None:
    assert list(errors(client, init_image=data_uri("image/png", PNG), width=1)) == ["width"]
    assert submit(client, init_image=data_uri("image/png", PNG), model_id="nowhere")["message"] == "Model not found"
    assert stored_files(tmp_path) == []


def test_init_not_checked_in_time_is_answered_with_retry_after(services: AppParts, jobs: JobStore, tmp_path: Path) -> None:
    client = TestClient(create_app(replace(services, decoder=Decoder(most_waiting=0))))
    form = {"prompt": "a red cat", "seconds": "1"}

    answer = client.post("/v1/videos", data=form, files={"input_reference": PNG})
    legacy = client.post(SUBMIT, json={"prompt": "a red cat", "init_image": data_uri("image/png", PNG)}).json()

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.json()["error"]["code"] == "decoder_busy"
    assert (legacy["status"], legacy["retry_after"]) == ("error", 5)
    assert client.post(SUBMIT, json={"prompt": "a red cat"}).json()["status"] == "processing"
    assert stored_files(tmp_path) == []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The URL of a web server with valid and invalid files."""
    folder = tmp_path / "site"
    folder.mkdir()
    for name, data in {"a.png": PNG, "a.mp4": MP4, "untyped": PNG, "fake.png": b"hello", "page.html": b"<html>"}.items():
        (folder / name).write_bytes(data)
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


@pytest.mark.parametrize(
    ("field", "name", "data", "ending"),
    [("init_image", "a.png", PNG, "png"), ("init_video", "a.mp4", MP4, "mp4"), ("init_image", "untyped", PNG, "png")],
)
def test_init_is_fetched_from_a_url(
    fetching_client: TestClient,
    jobs: JobStore,
    storage: LocalStorage,
    site: str,
    field: str,
    name: str,
    data: bytes,
    ending: str,
) -> None:
    answer = submit(fetching_client, **{field: f"{site}/{name}"})
    key = jobs.get(answer["id"]).params.init_key

    assert answer["meta"][field] == "yes"
    assert key == f"inits/{field.removeprefix('init_')}/{hashlib.sha256(data).hexdigest()}.{ending}"
    assert storage.read(key) == data
    assert site not in json.dumps(answer)


@pytest.mark.parametrize(
    ("field", "name", "message"),
    [
        ("init_image", "missing.png", "answered with status 404"),
        ("init_image", "fake.png", "The init image must be one of"),
        ("init_image", "a.mp4", "The init image must be one of"),
        ("init_image", "page.html", "This is a web page: use the address of the file itself."),
    ],
)
def test_url_that_names_no_init_is_refused(
    fetching_client: TestClient, jobs: JobStore, site: str, field: str, name: str, message: str
) -> None:
    found = errors(fetching_client, **{field: f"{site}/{name}"})

    assert message in found[field][0]
    assert jobs.list() == []


def test_nothing_is_fetched_for_a_refused_request(client: TestClient) -> None:
    """Otherwise the private address would be an error, too."""
    assert list(errors(client, init_image="http://127.0.0.1/a.png", width=1)) == ["width"]
