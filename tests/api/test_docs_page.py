"""`/docs` works in a browser without a network. It loads only this service's files, and runs nothing else."""

from __future__ import annotations

import hashlib
import json
import re
from urllib.parse import urljoin, urlsplit

from fastapi.testclient import TestClient

from promptreel.api.docs_page import FOLDER

TYPES = {".js": "text/javascript", ".css": "text/css"}


def test_all_files_of_the_page_are_served_here_with_their_types(client: TestClient) -> None:
    page = client.get("/docs")
    found = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    loaded = [urljoin(str(page.url), name) for name in found if not name.startswith("data:")]

    assert len(loaded) == 4
    assert {urlsplit(url).netloc for url in loaded} == {"video.test:8000"}
    for url in loaded:
        answer = client.get(url)
        assert answer.status_code == 200, url
        assert answer.headers["Content-Type"].split(";")[0] == TYPES.get(url[url.rindex(".") :], "application/json"), url
    assert urljoin(str(page.url), re.findall(r'url: "([^"]+)"', client.get("/docs/start.js").text)[0]) in loaded


def test_page_runs_only_its_own_scripts(client: TestClient) -> None:
    page = client.get("/docs")
    policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))

    assert policy["default-src"] == "'none'"
    assert {policy[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert re.findall(r"<script(?![^>]* src=)|<style|\son\w+=|\sstyle=", page.text) == []


def test_page_works_with_a_trailing_slash(client: TestClient) -> None:
    assert client.get("/docs/").url == client.get("/docs").url


def test_no_other_file_is_served(client: TestClient) -> None:
    for name in ("index.html", "LICENSE", "VENDORED.json", "..%2Fdocs_page.py", "other.js"):
        assert client.get(f"/docs/{name}").status_code == 404, name


def test_vendored_files_have_the_recorded_hashes() -> None:
    note = json.loads((FOLDER / "VENDORED.json").read_text())
    own = {"VENDORED.json", "index.html", "start.js"}

    assert {path.name for path in FOLDER.iterdir()} == {*note["sha256"], *own}
    assert {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in note["sha256"]} == note["sha256"]
    assert note["licence"] == "Apache-2.0"
    assert "Apache License" in (FOLDER / "LICENSE").read_text()
    assert re.fullmatch(r"\d+\.\d+\.\d+", note["version"])
