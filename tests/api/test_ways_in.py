"""A file may come as a data: URI, a URL, an upload, a reference of /v1 or from the command line. Only its bytes matter."""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from promptreel.api.app import AppParts, create_app
from promptreel.commands.generate import read_init
from promptreel.encoding.decoder import Decoder
from promptreel.errors import InitUnusable
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.jobs.store import JobStore
from promptreel.media import Init
from promptreel.storage.local import LocalStorage
from tests.api.test_inits import data_uri
from tests.api.test_text2video import errors, submit
from tests.encoding.quarters import COLOURS, HEIGHT, WIDTH, make_quarters, read_quarters, save, video
from tests.encoding.test_real_clips import TABLE as CLIPS
from tests.encoding.test_real_pictures import TABLE as PICTURES
from tests.encoding.test_real_pictures import phones_grid
from tests.waiting import LONGEST_SECONDS

FILES = {
    name: (kind, build())
    for kind, table, names in (
        (
            "image",
            PICTURES,
            ["png_exif_that_is_none", "png_profile", "jpeg_cmyk", "avif_lying", "webp_lying", "heic_grid_lying"],
        ),
        ("video", CLIPS, ["h264_in_quicktime", "vp8", "hdr_pq", "orientation_5", "pixels_twice_as_wide"]),
    )
    for name in names
    for build in [table[name][0]]
}
WRONG_LABELS = ["image/jpeg", "video/webm", "application/octet-stream", "text/html; charset=utf-8"]


class _Mislabelled(BaseHTTPRequestHandler):
    """Serves each of FILES under its name, with a wrong media type."""

    def do_GET(self) -> None:
        data = phones_grid() if self.path == "/heic" else FILES[self.path[1:]][1]
        self.send_response(200)
        self.send_header("Content-Type", WRONG_LABELS[len(self.path) % len(WRONG_LABELS)])
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Mislabelled) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def fetching_client(services: AppParts, site: str) -> TestClient:
    fetcher = SafeFetcher(allow_hosts=["127.0.0.1"], allow_ports=[int(site.rpartition(":")[2])], seconds=LONGEST_SECONDS)
    return TestClient(create_app(replace(services, fetcher=fetcher)), base_url="http://video.test:8000")


@pytest.fixture
def stored(jobs: JobStore, storage: LocalStorage) -> Callable[[], Init]:
    """The init of the newest job."""

    def find() -> Init:
        key = max(jobs.list(), key=lambda job: job.id).params.init_key or ""
        return Init.from_key(key, storage.read(key) or b"")

    return find


def reference(client: TestClient, data: bytes, media_type: str) -> Any:
    form = {"prompt": "a red cat", "seconds": "1"}
    return client.post("/v1/videos", data=form, files={"input_reference": ("IMG_0001.bin", data, media_type)})


@pytest.mark.parametrize("name", FILES)
def test_file_is_the_same_whichever_way_it_comes(
    fetching_client: TestClient, stored: Callable[[], Init], decoder: Decoder, site: str, tmp_path: Path, name: str
) -> None:
    client, (kind, data), field = fetching_client, FILES[name], f"init_{FILES[name][0]}"
    found = []
    submit(client, **{field: data_uri("image/jpeg", data)})
    found.append(stored())
    submit(client, **{field: f"{site}/{name}"})
    found.append(stored())
    upload, sent = (
        ("/api/v6/base64_to_url", "base64_string") if kind == "image" else ("/api/v6/video/base64_to_url", "init_obj")
    )
    link = client.post(upload, json={"key": "k", sent: data_uri("video/webm", data)}).json()["output"][0]
    submit(client, **{field: link})
    found.append(stored())
    for label in ("text/plain", "image/png"):
        answer = reference(client, data, label)
        assert answer.status_code == 200, answer.text
        found.append(stored())
    file = tmp_path / "init.txt"
    file.write_bytes(data)
    found.append(read_init(file, decoder))

    assert all(init == found[0] for init in found)
    assert (found[0].kind, found[0].data) == (kind, data)
    clip = decoder.decode(found[0], num_frames=1, fps=8, width=WIDTH, height=HEIGHT)
    assert np.abs(np.subtract(read_quarters(clip.frames[0]), COLOURS)).max() <= 24


PNG, WEBM = save(make_quarters(), "PNG"), CLIPS["vp8"][0]()


@pytest.mark.parametrize(
    ("field", "header", "data"),
    [
        ("init_video", "data:video/webm;codecs=vp8,opus;base64,", WEBM),
        ("init_video", 'data:video/webm;codecs="vp8, opus";base64,', WEBM),
        ("init_video", "data:video/x-matroska;codecs=avc1;base64,", WEBM),
        ("init_video", "data:video/quicktime;base64,", video(ending="mov")),
        ("init_video", "data:video/mp4;base64,", video(ending="mov")),
        ("init_image", "data:application/octet-stream;base64,", PNG),
        ("init_image", "data:;base64,", PNG),
        ("init_image", "data:base64,", PNG),
        ("init_image", "data:image/png;charset=utf-8;base64,", PNG),
        ("init_image", "data:image/png;name=a b.png;base64,", PNG),
        ("init_image", "DATA:IMAGE/PNG;BASE64,", PNG),
        ("init_image", "  data:image/png; base64,\n", PNG),
        ("init_image", "data:image/jpeg;base64,", PNG),
        ("init_image", "", PNG),
    ],
)
def test_header_of_a_data_uri_may_be_anything(
    client: TestClient, stored: Callable[[], Init], field: str, header: str, data: bytes
) -> None:
    text = header + b64encode(data).decode()
    submit(client, **{field: text})
    assert stored().data == data

    upload, sent = (
        ("/api/v6/base64_to_url", "base64_string") if field == "init_image" else ("/api/v6/video/base64_to_url", "init_obj")
    )
    answer = client.post(upload, json={"key": "k", sent: text}).json()
    assert client.get(answer["output"][0]).content == data


def test_heic_is_refused_by_name_when_no_library_reads_it(
    fetching_client: TestClient,
    jobs: JobStore,
    decoder: Decoder,
    site: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A demuxer would read it as a video of one tile of the picture."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    data, said = phones_grid(), "with: pip install 'promptreel[heif]'."
    for field in ("init_image", "init_video"):
        for value in (data_uri("image/heic", data), data_uri("image/jpeg", data), f"{site}/heic"):
            assert errors(fetching_client, **{field: value})[field][0].endswith(said)
    upload = fetching_client.post("/api/v6/base64_to_url", json={"base64_string": data_uri("image/heic", data)}).json()
    assert upload["message"]["base64_string"][0].endswith(said)
    assert reference(fetching_client, data, "image/heic").json()["error"]["message"].endswith(said)
    (tmp_path / "a.heic").write_bytes(data)
    with pytest.raises(InitUnusable, match="HEIC"):
        read_init(tmp_path / "a.heic", decoder)
    assert jobs.list() == []
