"""`/`: the page for people. It loads only this service's files, and a browser keeps those."""

from __future__ import annotations

import gzip
import hashlib
import html
import json
import re
from dataclasses import replace

from fastapi.testclient import TestClient

from promptreel.api.app import create_app
from promptreel.api.parts import AppParts
from promptreel.api.web_page import FOLDER, TYPES, read_web_files
from promptreel.jobs.keys import KeyStore
from promptreel.jobs.params import SCHEDULERS

VENDOR = FOLDER / "vendor"
MOST_COMPRESSED = 60_000


def facts_of(page: str) -> dict[str, object]:
    found = re.search(r'<meta name="promptreel" content="([^"]+)"', page)
    assert found is not None
    return json.loads(html.unescape(found[1]))


def test_page_loads_files_that_are_here_and_kept(client: TestClient) -> None:
    page = client.get("/")
    loaded = re.findall(r'(?:src|href)="(web/[^"]+)"', page.text)

    assert page.headers["Content-Type"].startswith("text/html")
    assert len(loaded) >= 8
    for path in loaded:
        answer = client.get(f"/{path}")
        assert answer.status_code == 200, path
        assert answer.headers["Content-Type"].split(";")[0] == TYPES[path[path.rindex(".") :]], path
        assert "immutable" in answer.headers["Cache-Control"]


def test_page_runs_only_its_own_scripts_and_speaks_only_to_its_service(client: TestClient) -> None:
    page = client.get("/")
    policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))

    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src", "form-action")} == {"'self'"}
    assert (policy["require-trusted-types-for"], policy["trusted-types"]) == ("'script'", "'none'")
    assert page.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert re.findall(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", page.text) == []


def test_every_file_that_a_script_imports_is_there() -> None:
    files = read_web_files().files
    for name, file in files.items():
        if name.endswith(".js"):
            here = (FOLDER / name).parent
            for target in re.findall(r"""(?:from|import\() ?["`](\./[^"`$]+)["`]""", file.content.decode()):
                assert (here / target).is_file(), (name, target)
    own = [file.content for name, file in files.items() if not name.startswith("vendor/")]
    assert not re.search(rb"innerHTML|dangerouslySet|\beval\(|new Function", b"".join(own))


def test_first_page_is_light(client: TestClient) -> None:
    page = client.get("/")
    loaded = re.findall(r'(?:src|href)="web/[^/]+/([^"]+)"', page.text)
    sizes = [len(read_web_files().files[name].compressed or b"") for name in loaded]

    assert sum(sizes) + len(gzip.compress(page.content)) <= MOST_COMPRESSED


def test_browsers_that_can_get_it_compressed(client: TestClient) -> None:
    version = read_web_files().version
    plain = client.get(f"/web/{version}/app.js", headers={"Accept-Encoding": "identity"})
    packed = client.get(f"/web/{version}/app.js", headers={"Accept-Encoding": "gzip"})

    assert "Content-Encoding" not in plain.headers
    assert packed.headers["Content-Encoding"] == "gzip"
    assert int(packed.headers["Content-Length"]) < len(plain.content) / 2
    assert packed.content == plain.content == (FOLDER / "app.js").read_bytes()
    assert packed.headers["Vary"] == "Accept-Encoding"


def test_no_other_file_is_served(client: TestClient) -> None:
    version = read_web_files().version
    for path in (f"{version}/vendor/VENDORED.json", f"{version}/index.html", f"{version}/../version.py", "0/app.js", version):
        assert client.get(f"/web/{path}").status_code == 404, path


def test_page_knows_what_the_api_accepts(client: TestClient) -> None:
    facts = facts_of(client.get("/").text)

    assert facts["schedulers"] == list(SCHEDULERS)
    assert (facts["version"], facts["steps"]) == ("1.2.3", [1, 50])


def test_page_asks_for_a_key_where_one_is_needed(services: AppParts, keys: KeyStore) -> None:
    client = TestClient(create_app(services), base_url="http://video.test:8000")
    assert facts_of(client.get("/").text)["needs_key"] is False
    _, key = keys.create("k")
    client = TestClient(
        create_app(replace(services, authenticator=type(services.authenticator)(keys, serves_local=True))),
        base_url="http://video.test:8000",
    )
    assert facts_of(client.get("/").text)["needs_key"] is True

    client.post("/v1/session", headers={"key": key, "Origin": "http://video.test:8000"}).raise_for_status()

    assert facts_of(client.get("/").text)["needs_key"] is False


def test_page_can_be_switched_off(services: AppParts) -> None:
    client = TestClient(create_app(replace(services, has_page=False)))

    for path in ("/", f"/web/{read_web_files().version}/app.js"):
        assert client.get(path).status_code == 404


def test_libraries_are_those_that_were_published() -> None:
    """What was reworded to join them is put back."""
    note = json.loads((VENDOR / "VENDORED.json").read_text())
    joined = (VENDOR / "libraries.js").read_text()
    for library in note["libraries"]:
        heading = f"/*! {library['name']} {library['version']}, {library['licence']}: {library['file']} */\n"
        code = joined.partition(heading)[2].partition("\n})();\n")[0].partition("=(()=>{")[2]
        for old, new in reversed(library["changes"]):
            assert code.count(new) == 1, library["name"]
            code = code.replace(new, old)
        assert hashlib.sha256(code.encode()).hexdigest() == library["sha256"], library["name"]

    assert {library["licence"] for library in note["libraries"]} == {"MIT", "Apache-2.0"}


def test_vendored_files_have_the_recorded_hashes() -> None:
    sums = json.loads((VENDOR / "VENDORED.json").read_text())["sha256"]

    assert {path.name for path in VENDOR.iterdir()} == {*sums, "VENDORED.json"}
    assert {name: hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() for name in sums} == sums
