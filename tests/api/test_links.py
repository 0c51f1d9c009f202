"""Links to files that expire: signed, for videos, previews and uploads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi.testclient import TestClient

from promptreel.api.app import AppParts, create_app
from promptreel.api.v1.events import VideoWatcher
from promptreel.bootstrap import build_database
from promptreel.jobs.installation_facts import read_link_secret
from promptreel.jobs.job import Claim
from promptreel.jobs.keys import LOCAL_CALLER, Caller
from promptreel.jobs.links import LinkMaker
from promptreel.jobs.store import JobStore
from promptreel.settings import load_settings
from promptreel.storage.local import LocalStorage
from tests.api.conftest import SUBMIT
from tests.api.test_inits import PNG, data_uri
from tests.rules.documents import ROOT

SECONDS = 60


class Watch:
    """A clock that the test sets, in seconds since 1970."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.5

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def signing(services: AppParts, watch: Watch) -> AppParts:
    return replace(services, link_maker=LinkMaker(secret=b"s" * 32, seconds=SECONDS, now=watch))


@pytest.fixture
def client(signing: AppParts) -> TestClient:
    return TestClient(create_app(signing))


@pytest.fixture
def links(client: TestClient, jobs: JobStore, storage: LocalStorage, finish_next: Callable[[bytes], None]) -> dict[str, str]:
    """A link to each kind of file. All files exist."""
    client.post(SUBMIT, json={"prompt": "a red cat"})
    finish_next(b"video")
    video = client.post("/api/v3/dreambooth/fetch/1").json()
    running = client.post(SUBMIT, json={"prompt": "a red cat"}).json()
    claimed: tuple[Claim, Any] = jobs.claim("w") or pytest.fail("nothing to claim")
    storage.save_bytes(b"preview", claimed[1].preview_key)
    upload = client.post("/api/v6/base64_to_url", json={"base64_string": data_uri("image/png", PNG)}).json()
    history = client.post("/api/v6/assets_generated").json()
    until = {answer["links_expire_at"] for answer in (video, running, upload, history)}
    assert until == {"2027-01-15T08:01:00+00:00"}
    assert history["data"][0]["output"] == video["output"] == video["proxy_links"]
    return {"video": video["output"][0], "preview": running["preview"], "upload": upload["output"][0]}


def test_signed_links_work_until_they_expire(client: TestClient, links: dict[str, str], watch: Watch) -> None:
    watch.seconds += SECONDS - 1
    for kind, link in links.items():
        assert [client.request(method, link).status_code for method in ("GET", "HEAD")] == [200, 200], kind
    watch.seconds += 1
    for kind, link in links.items():
        answer = client.get(link)
        assert answer.status_code == 403, kind
        assert answer.json()["message"].startswith("This link has expired. Fetch the job again")

    fresh = client.post("/api/v3/dreambooth/fetch/1").json()["output"][0]
    assert client.get(fresh).content == b"video"


@pytest.mark.parametrize("kind", ["video", "preview", "upload"])
def test_link_that_was_changed_is_refused(client: TestClient, links: dict[str, str], kind: str) -> None:
    link, others = links[kind], [other for name, other in links.items() if name != kind]
    plain, query = link.split("?")
    later = link.replace("expires=1800000060", "expires=1900000000")
    assert later != link

    for changed in (plain, later, link[:-1], link + "0", f"{plain}?signature=", f"{plain}?expires=x&signature=\u00e9"):
        answer = client.get(changed)
        assert answer.status_code == 403, changed
        assert "signature is wrong" in answer.json()["message"]
    for other in others:
        assert client.get(f"{other.split('?')[0]}?{query}").status_code == 403


def test_expired_link_to_an_upload_is_refused_as_init_image(client: TestClient, links: dict[str, str], watch: Watch) -> None:
    fields = {"prompt": "a red cat", "init_image": links["upload"]}

    assert client.post(SUBMIT, json=fields).json()["meta"]["init_image"] == "yes"
    watch.seconds += SECONDS
    assert client.post(SUBMIT, json=fields).json()["message"].startswith("This link has expired.")


def test_preview_links_in_events_are_signed_when_sent(
    client: TestClient, signing: AppParts, links: dict[str, str], watch: Watch
) -> None:
    watcher = VideoWatcher(signing, 2, links=lambda: signing.link_maker.start("http://testserver"))
    watch.seconds += 1000

    (told,) = [event.data["url"] for event in watcher.look() if event.name == "preview"]

    assert client.get(told).content == b"preview"


def test_without_the_setting_links_are_plain_and_stay(services: AppParts, finish_next: Callable[[bytes], None]) -> None:
    client = TestClient(create_app(services))
    client.post(SUBMIT, json={"prompt": "a red cat"})
    finish_next(b"video")

    answer = client.post("/api/v3/dreambooth/fetch/1").json()

    assert "links_expire_at" not in answer
    assert urlsplit(answer["output"][0]).query == ""
    assert client.get(answer["output"][0] + "?expires=1&signature=2").content == b"video"


def test_secret_is_made_once_for_each_installation(tmp_path: Path) -> None:
    first, second = (build_database(load_settings(data_dir=tmp_path / name)) for name in ("a", "b"))

    secrets = [read_link_secret(database) for database in (first, first, second)]

    assert [len(secret) for secret in secrets] == [32] * 3
    assert secrets[0] == secrets[1] != secrets[2]
    assert secrets[0].hex() not in repr(LinkMaker(secret=secrets[0], seconds=1).start(""))


def test_name_of_an_upload_is_derived_from_id_caller_and_secret() -> None:
    maker, elsewhere = LinkMaker(secret=b"a"), LinkMaker(secret=b"b")
    names = [maker.name_upload(number, caller) for number in (1, 11) for caller in (LOCAL_CALLER, Caller(api_key_id=1))]

    assert len({*names, elsewhere.name_upload(1, LOCAL_CALLER)}) == 5
    assert maker.name_upload(1, LOCAL_CALLER) == names[0]


def test_times_include_their_zone() -> None:
    expire_at = LinkMaker(secret=b"a", seconds=1, now=lambda: 0.9).start("").expire_at

    assert expire_at == datetime.fromisoformat("1970-01-01T00:00:01+00:00")


def test_links_to_files_are_made_in_one_place() -> None:
    """A link that is made elsewhere would not be signed."""
    made = [path.name for path in (ROOT / "src").rglob("*.py") if "}/files/" in path.read_text()]
    assert made == []
