"""Uploads: a picture or video as base64 in; a link for later requests out."""

from __future__ import annotations

import io
from base64 import b64encode
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from promptreel.jobs.store import JobStore
from promptreel.storage.local import LocalStorage
from tests.api.conftest import SUBMIT
from tests.api.test_fetch import NOT_FOUND
from tests.api.test_inits import GIF, MEGABYTE, MP4, PNG, data_uri

CROP = "/api/v3/base64_crop"
TO_URL = "/api/v6/base64_to_url"
VIDEO_TO_URL = "/api/v6/video/base64_to_url"


def upload(client: TestClient, data: bytes = PNG, media_type: str = "image/png") -> dict[str, object]:
    return client.post(TO_URL, json={"key": "k", "base64_string": data_uri(media_type, data)}).json()


def test_base64_crop_answers_in_the_documented_shape(client: TestClient) -> None:
    answer = client.post(CROP, json={"key": "k", "image": data_uri("image/png", PNG), "crop": "no"}).json()
    file = client.get(answer["link"])

    assert type(answer.pop("request_id")) is int
    assert answer.pop("link").startswith("http://video.test:8000/uploads/")
    assert answer == {"status": "success", "message": "image uploaded", "messege": "image uploaded"}
    assert (file.content, file.headers["Content-Type"]) == (PNG, "image/png")


@pytest.mark.parametrize(
    ("path", "field", "data", "media_type"),
    [
        (TO_URL, "base64_string", PNG, "image/png"),
        (VIDEO_TO_URL, "init_obj", GIF, "image/gif"),
        (VIDEO_TO_URL, "init_obj", MP4, "video/mp4"),
    ],
)
def test_base64_to_url_answers_in_the_documented_shape(
    client: TestClient, path: str, field: str, data: bytes, media_type: str
) -> None:
    answers = [
        client.post(path, json={"key": "k", field: data_uri(media_type, data)}).json(),
        client.post(path, data={"key": "k", field: b64encode(data).decode()}).json(),
    ]

    assert len({answer["output"][0] for answer in answers}) == 2  # equal files get different names
    for answer in answers:
        assert answer.keys() == {"status", "id", "output"}
        assert (answer["status"], type(answer["id"])) == ("success", int)
        file = client.get(answer["output"][0])
        assert (file.content, file.headers["Content-Type"]) == (data, media_type)
        assert client.head(answer["output"][0]).headers["Content-Length"] == str(len(data))


@pytest.mark.parametrize(
    ("file_format", "media_type"), [("PNG", "image/png"), ("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("GIF", "image/png")]
)
def test_crop_keeps_the_square_around_the_center_upright(client: TestClient, file_format: str, media_type: str) -> None:
    """Red, with a green square in the middle whose upper left quarter is blue. All but the gif are rotated."""
    stored = Image.new("RGB", (20, 40), "red")
    stored.paste("green", (0, 10, 20, 30))
    stored.paste("blue", (0, 10, 10, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    stored.save(file, file_format, **({} if file_format == "GIF" else {"exif": exif}))

    answer = client.post(CROP, json={"image": b64encode(file.getvalue()).decode(), "crop": True}).json()
    cropped = client.get(answer["link"])

    assert cropped.headers["Content-Type"] == media_type
    picture = Image.open(io.BytesIO(cropped.content)).convert("RGB")
    assert picture.size == (20, 20)
    blue = (1, 1) if file_format == "GIF" else (18, 1)
    for corner in ((1, 1), (18, 1), (1, 18), (18, 18)):
        strongest = max(range(3), key=picture.getpixel(corner).__getitem__)
        assert strongest == (2 if corner == blue else 1), corner


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (None, "The base64 string field is required."),
        ("", "The base64 string field is required."),
        ("http://pictures.example/1.png", "not valid base64"),
        (7, "must be one of image/png"),
        (data_uri("image/png", b"text"), "must be one of image/png"),
        (data_uri("image/png", PNG[:20]), "cannot be decoded"),
        (data_uri("image/png", b"\x89PNG\r\n\x1a\n".ljust(5 * MEGABYTE + 1)), "must not be greater than 5 MB"),
    ],
)
def test_unreadable_or_too_large_file_is_refused(client: TestClient, storage: LocalStorage, value: object, why: str) -> None:
    answer = client.post(TO_URL, json={"base64_string": value})

    assert (answer.status_code, answer.json()["status"]) == (200, "error")
    (message,) = answer.json()["message"]["base64_string"]
    assert why in message
    assert storage.path("uploads") is None


def test_crop_limits_the_size_of_pictures(client: TestClient) -> None:
    huge = io.BytesIO()
    Image.new("1", (5000, 4000)).save(huge, "PNG")

    video = client.post(CROP, json={"image": data_uri("video/mp4", MP4)}).json()
    too_large = client.post(CROP, json={"image": data_uri("image/png", huge.getvalue()), "crop": "yes"}).json()
    unclear = client.post(CROP, json={"image": data_uri("image/png", PNG), "crop": "perhaps"}).json()

    assert "image/png" in video["message"]["image"][0]
    assert "16 million pixels" in too_large["message"]["image"][0]
    assert unclear["message"] == {"crop": ["The crop must be yes or no."]}


def test_upload_is_deleted_by_its_id(client: TestClient) -> None:
    answer = upload(client)

    deleted = client.post("/api/v3/delete_image", json={"key": "k", "request_id": answer["id"]}).json()

    assert deleted == {"status": "success", "message": "image deleted", "messege": "image deleted"}
    assert client.get(answer["output"][0]).status_code == 404
    assert client.post("/api/v3/delete_image", json={"request_id": answer["id"]}).json() == NOT_FOUND


@pytest.mark.parametrize("path", ["/uploads/0123.png", "/uploads/..%2F..%2Fpromptreel.db", "/uploads/.incoming.png"])
def test_unknown_upload_is_not_found(client: TestClient, path: str) -> None:
    answer = client.get(path)

    assert (answer.status_code, answer.json()["status"]) == (404, "error")


def test_link_to_an_upload_serves_as_init_image_without_being_fetched(
    client: TestClient, jobs: JobStore, storage: LocalStorage
) -> None:
    link = upload(client)["output"][0]
    elsewhere = f"http://127.0.0.1:8000{urlsplit(link).path}"  # fetching this address is refused

    for url in (link, elsewhere):
        answer = client.post(SUBMIT, json={"prompt": "a red cat", "init_image": url}).json()
        assert answer["meta"]["init_image"] == "yes"
        assert storage.read(jobs.get(answer["id"]).params.init_key) == PNG
    one = client.post(SUBMIT, json={"prompt": "a red cat", "init_image": [link]}).json()
    assert one["meta"]["init_image"] == "yes"
    many = client.post(SUBMIT, json={"prompt": "a red cat", "init_image": [link] * 40_000})  # none of them is read
    assert many.json()["message"] == {"init_image": ["Send only one init image: a clip starts from a single file."]}
    deep = client.post(SUBMIT, content='{"prompt": "a red cat", "init_image": ' + "[" * 150 + "]" * 150 + "}")
    assert deep.json()["status"] == "error"
    unknown = client.post(SUBMIT, json={"prompt": "a red cat", "init_image": elsewhere.replace("/uploads/", "/uploads/0")})
    assert unknown.json()["status"] == "error"
