"""Sends requests to a service on this machine as fast as it answers, over several connections. Prints JSON.

bench/api_load.py starts it as a separate process, to count its CPU time apart from the service's. Connections are kept alive.
Each sends its next request when the last one is answered. A request is an error unless its answer is 200 with an expected job
status.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

MOST_REQUESTS = 100_000
ANSWER_SECONDS = 60.0
CREATE = {
    "key": "any key will do",
    "prompt": "a red cat sitting on a bench",
    "width": 96,
    "height": 96,
    "num_frames": 8,
    "num_inference_steps": 4,
    "guidance_scale": 1.0,
    "seed": 1,
}
STATUSES = {"create": {"processing"}, "fetch": {"processing", "success"}}


@dataclass
class Load:
    """State shared by all connections: the requests to send, the deadline, and the results."""

    next_request: Callable[[], bytes]
    good_statuses: set[str]
    deadline: float
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    last_id: int = 0

    def goes_on(self) -> bool:
        return time.monotonic() < self.deadline and len(self.seconds) + len(self.errors) < MOST_REQUESTS


def main() -> None:
    options = _parse_options()
    started = time.monotonic()
    load = Load(_requests(options), STATUSES[options.kind], started + options.seconds)
    asyncio.run(connect_all(load, options.port, options.connections))
    measured = {
        "wall_seconds": time.monotonic() - started,
        "cpu_seconds": time.process_time(),
        "seconds": load.seconds,
        "errors": load.errors,
        "last_id": load.last_id,
    }
    json.dump(measured, sys.stdout)


def _requests(options: argparse.Namespace) -> Callable[[], bytes]:
    if options.kind == "create":
        create = _request(options.port, "/api/v4/dreambooth/text2video", CREATE)
        return lambda: create
    chance = random.Random(1)
    path = "/api/v4/dreambooth/fetch/{}"
    return lambda: _request(options.port, path.format(chance.randint(1, options.last_id)), {"key": CREATE["key"]})


def _request(port: int, path: str, fields: dict[str, object]) -> bytes:
    body = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def connect_all(load: Load, port: int, connections: int) -> None:
    await asyncio.gather(*(keep_asking(load, port) for _ in range(connections)))


async def keep_asking(load: Load, port: int) -> None:
    """Sends requests over one connection at a time. Opens a new one after an error."""
    while load.goes_on():
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                while load.goes_on():
                    await ask(load, reader, writer)
            finally:
                writer.close()
        except (OSError, ValueError, LookupError, EOFError) as error:
            load.errors.append(repr(error))


async def ask(load: Load, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends one request and records the answer. Raises OSError, ValueError, LookupError or EOFError if it cannot be read."""
    request = load.next_request()
    started = time.perf_counter()
    writer.write(request)
    status, body = await asyncio.wait_for(_read_answer(reader), ANSWER_SECONDS)
    seconds = time.perf_counter() - started
    answer = json.loads(body)
    if status != 200 or answer["status"] not in load.good_statuses:
        load.errors.append(f"{status}: {body[:200]!r}")
        return
    load.seconds.append(seconds)
    load.last_id = max(load.last_id, answer["id"])


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
    headers = dict(line.split(": ", 1) for line in lines if line)
    return int(first.split()[1]), await reader.readexactly(int(headers["content-length"]))


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.load_generator", description=__doc__)
    parser.add_argument("kind", choices=sorted(STATUSES))
    parser.add_argument("--port", type=int, required=True, help="the service's port on 127.0.0.1")
    parser.add_argument("--connections", type=int, required=True, help="number of connections")
    parser.add_argument("--seconds", type=float, required=True, help="how long to send requests")
    parser.add_argument("--last-id", type=int, default=1, help="fetch random jobs from 1 to this one (default: 1)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
