"""The examples of docs/first-video.md work as they stand there."""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import typer
from fastapi.testclient import TestClient

from promptreel.bootstrap import build_app
from promptreel.cli import app
from promptreel.jobs.webhook_secrets import new_webhook_secret
from promptreel.notify.signing import sign
from promptreel.settings import load_settings
from tests.rules.documents import code_blocks, pages, read

ADDRESS = "http://127.0.0.1:8000"
DOCUMENTED_FIELDS = {
    "key", "model_id", "prompt", "negative_prompt", "width", "height", "scheduler", "num_inference_steps", "enhance_prompt",
    "guidance_scale", "strength", "seed", "webhook", "track_id",
}  # fmt: skip


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(build_app(load_settings(data_dir=tmp_path), serves_local=True), base_url=ADDRESS) as client:
        yield client


def curl_requests() -> list[tuple[str, dict[str, Any]]]:
    """Address and body of each curl command of the page that sends JSON."""
    commands = [shlex.split(line) for block in code_blocks(read("docs/first-video.md"), "sh") for line in joined_lines(block)]
    curls = [words for words in commands if words[0] == "curl" and "--json" in words]
    return [(words[1], json.loads(words[words.index("--json") + 1])) for words in curls]


def joined_lines(block: str) -> list[str]:
    """The commands of a shell block: a backslash or an open quote carries one on over the line's end."""
    found: list[str] = []
    pending = ""
    for line in block.splitlines():
        pending += line
        if line.endswith("\\"):
            pending = pending[:-1]
        elif pending.count("'") % 2:
            pending += "\n"
        else:
            found.append(pending)
            pending = ""
    return [command for command in found if command.strip() and not command.startswith("#")]


def test_documented_request_is_taken_and_its_fetch_link_answers(client: TestClient) -> None:
    (submit, body), (fetch, fetch_body) = curl_requests()

    answer = client.post(submit, json=body).json()
    fetched = client.post(fetch, json=fetch_body).json()

    assert set(body) == DOCUMENTED_FIELDS
    assert (answer["status"], answer["fetch_result"]) == ("processing", fetch)
    assert (fetched["status"], fetched["id"]) == ("processing", answer["id"])


def test_python_example_sends_what_the_curl_example_sends() -> None:
    program, _ = code_blocks(read("docs/first-video.md"), "python")
    (submit, body), _ = curl_requests()

    first_post = next(
        node
        for node in ast.walk(ast.parse(program))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "requests.post"
    )

    assert ast.literal_eval(first_post.args[0]) == submit
    assert ast.literal_eval(first_post.keywords[0].value) == body


def test_python_example_looks_again_after_seconds_however_long_the_estimate(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A hundred minutes are in front of it; its job is then done while it waits."""
    slept: list[float] = []
    longest = {"prompt": "a red cat", "seconds": 30, "num_inference_steps": 50, "scheduler": "HeunDiscreteScheduler"}
    (submit, _), _ = curl_requests()
    etas = [client.post(submit, json=longest).json()["eta"] for _ in range(20)]

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            client.post("/v1/videos/video_21/cancel")

    monkeypatch.setitem(sys.modules, "requests", client)  # it has the two functions, and answers alike
    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="Cancelled"):
        exec(code_blocks(read("docs/first-video.md"), "python")[0], {})

    assert etas[-1] > 600
    assert len(slept) == 3
    assert max(slept) <= 5


def test_example_of_the_open_standard_makes_a_video(client: TestClient) -> None:
    """Up to the loop: waiting and downloading are tests/flows/test_openai.py's."""
    _, program = code_blocks(read("docs/first-video.md"), "python")
    beginning, loop, _ = program.partition("while ")
    assert loop
    names: dict[str, Any] = {"test_client": client}

    with pytest.warns(DeprecationWarning, match="Sora"):
        exec(beginning.replace('api_key="any"', 'api_key="any", http_client=test_client'), names)

    assert (names["video"].status, names["video"].seed) == ("queued", 7)


def test_both_ways_to_verify_a_webhook_tell_the_genuine_from_the_forged() -> None:
    names: dict[str, Any] = {}
    for program in code_blocks(read("docs/webhooks.md"), "python"):
        exec(program, names)
    secret, body = new_webhook_secret(), b'{"status": "success"}'
    headers = sign(secret, "msg_1", sent_at=datetime.now(UTC), body=body)
    old = sign(secret, "msg_1", sent_at=datetime.now(UTC) - timedelta(minutes=6), body=body)

    assert names["read_webhook"](secret, body, headers) == {"status": "success"}
    assert names["is_genuine"](secret, body, headers)
    for forged in ((secret, b"{}", headers), (new_webhook_secret(), body, headers), (secret, body, old)):
        assert names["read_webhook"](*forged) is None
        assert not names["is_genuine"](*forged)


def test_promptreel_commands_in_documents_can_be_parsed() -> None:
    blocks = [block for page in pages() for block in code_blocks(page.read_text(), "sh")]
    commands = [line for block in blocks for line in joined_lines(block) if re.match(r"(\S*/)?promptreel ", line)]

    assert len(commands) >= 2
    for command in commands:
        parse(shlex.split(command, comments=True)[1:])


def parse(arguments: list[str]) -> None:
    """Reads a command line down to its last word and runs nothing; raises a usage error where it is wrong."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    command.make_context(command.name, arguments)
