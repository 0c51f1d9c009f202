"""The five examples of the hosted service's v4 page, with the host changed, and a size and steps that take less time.

Python and JavaScript run as they stand there. PHP's curl, Java's OkHttp and Node's `request` are what they put on the wire.
"""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.flows.service import TEXT2VIDEO, Service, decode

BODY = {
    "key": "",
    "model_id": "cutout",
    "prompt": "a red cat sitting on a bench",
    "negative_prompt": None,
    "height": "96",
    "width": "96",
    "scheduler": None,
    "num_inference_steps": "2",
    "guidance_scale": 7.5,
    "enhance_prompt": "yes",
    "strength": 0.55,
    "seed": None,
    "webhook": None,
    "track_id": None,
}
INDENTED = json.dumps(BODY, indent=2)

PYTHON = """
import requests
import json

url = "ADDRESS"

payload = json.dumps(BODY)

headers = {
  'Content-Type': 'application/json'
}

response = requests.request("POST", url, headers=headers, data=payload)

print(response.text)
"""

JAVASCRIPT = """
var myHeaders = new Headers();
myHeaders.append("Content-Type", "application/json");

var raw = JSON.stringify(BODY);

var requestOptions = {
  method: 'POST',
  headers: myHeaders,
  body: raw,
  redirect: 'follow'
};

fetch("ADDRESS", requestOptions)
  .then(response => response.text())
  .then(result => console.log(result))
  .catch(error => console.log('error', error));
"""

# Headers in the order in which each client sends them.
PHP = """POST PATH HTTP/1.1
Host: HOST
Accept: */*
Accept-Encoding: deflate, gzip, br, zstd
Content-Type: application/json
Content-Length: LENGTH

"""
NODE_REQUEST = """POST PATH HTTP/1.1
Content-Type: application/json
host: HOST
content-length: LENGTH
Connection: close

"""
OKHTTP = """POST PATH HTTP/1.1
Content-Type: application/json; charset=utf-8
Content-Length: LENGTH
Host: HOST
Connection: Keep-Alive
Accept-Encoding: gzip
User-Agent: okhttp/4.12.0

"""


def by_python(url: str, capsys: pytest.CaptureFixture[str]) -> str:
    exec(PYTHON.replace("ADDRESS", url).replace("BODY", repr(BODY)), {})
    return capsys.readouterr().out


def by_javascript(url: str, _capsys: object) -> str:
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node is not installed; .ci/run installs it")
    program = JAVASCRIPT.replace("ADDRESS", url).replace("BODY", INDENTED)
    return subprocess.run([node, "-"], input=program, check=True, capture_output=True, text=True, timeout=60).stdout


def by_php(url: str, _capsys: object) -> str:
    return send(url, PHP, json.dumps(BODY, separators=(",", ":")).replace("/", r"\/"))


def by_node_request(url: str, _capsys: object) -> str:
    return send(url, NODE_REQUEST, json.dumps(BODY, separators=(",", ":")))


def by_okhttp(url: str, _capsys: object) -> str:
    return send(url, OKHTTP, INDENTED.replace('":', '" :'))


def send(url: str, head: str, body: str) -> str:
    """Sends these bytes; returns the answer's body."""
    to = httpx.URL(url)
    content = body.encode()
    head = head.replace("PATH", to.path).replace("HOST", f"{to.host}:{to.port}").replace("LENGTH", str(len(content)))
    with socket.create_connection((to.host, to.port), timeout=60) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + content)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return answer.read().decode()


@pytest.mark.parametrize("ask", [by_python, by_javascript, by_php, by_node_request, by_okhttp])
def test_documented_example_reaches_success(
    service: Service, capsys: pytest.CaptureFixture[str], ask: Callable[[str, Any], str]
) -> None:
    answer = json.loads(ask(service.url + TEXT2VIDEO, capsys))
    success = service.finish(answer)

    meta = success["meta"]
    assert (answer["status"], success["status"]) == ("processing", "success")
    assert answer["meta"] == meta
    assert (meta["prompt"], meta["W"], meta["H"], meta["steps"]) == (BODY["prompt"], 96, 96, 2)
    assert (meta["guidance_scale"], meta["strength"], meta["scheduler"]) == (7.5, 0.55, "UniPCMultistepScheduler")
    frames, fps = decode(service.download(success))
    assert (frames.shape, fps) == ((40, 96, 96, 3), 8)
