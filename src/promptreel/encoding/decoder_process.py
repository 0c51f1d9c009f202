"""`python -m promptreel.encoding.decoder_process`: decodes foreign pictures and videos under hard limits.

A request on stdin is a line of JSON and the file. The answer on stdout is lines of JSON, with frames in between. This process
loads the libraries and never parses foreign bytes: it forks a child for each request. The child runs under kernel limits and
exits after its answer, so nothing that a file did to it remains. If a child fails, this process exits too, and its exit code
says why. It also exits when its parent closes stdin or dies.
"""

from __future__ import annotations

import gc
import io
import json
import os
import resource
import select
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, JpegImagePlugin, MpoImagePlugin, TiffImagePlugin, WebPImagePlugin  # noqa: F401 - loaded once, for all forks

from promptreel.encoding import heif
from promptreel.encoding.decoder import BY_SIGNAL
from promptreel.encoding.decoding import check_init, crop_init, decode_init
from promptreel.encoding.examples import make_example
from promptreel.errors import InitUnusable
from promptreel.media import ExampleShape, Init

MEGABYTES = 250
"""Memory for one request, including its file, on top of what the libraries use."""


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    answers = os.dup(1)
    os.dup2(2, 1)  # a library that prints must not corrupt an answer
    Image.preinit()
    if heif.is_installed():
        heif.register()
    gc.freeze()
    while _wait_for_request():
        _fork(answers)


def _wait_for_request() -> bool:
    """Returns False once the parent has closed stdin."""
    waiting = select.poll()
    waiting.register(0, select.POLLIN)
    return any(event & select.POLLIN for _, event in waiting.poll())


def _fork(answers: int) -> None:
    """Serves one request in a child. Exits if the child fails; kills the child if the parent is gone."""
    alive, held = os.pipe()
    fork = os.fork()
    if fork == 0:
        os._exit(_serve(answers))
    os.close(held)
    waiting = select.poll()
    waiting.register(alive, 0)  # closes when the child ends
    waiting.register(0, 0)  # closes when the parent ends
    if any(closed == 0 for closed, _ in waiting.poll()):
        os.kill(fork, signal.SIGKILL)
    os.close(alive)
    code = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
    if code:
        sys.exit(code if code > 0 else BY_SIGNAL - code)


def _serve(answers: int) -> int:
    """Answers one request, in the child. Returns the exit code."""
    with io.FileIO(0, closefd=False) as pipe, open(answers, "wb") as answer:
        request = io.BufferedReader(pipe)
        told = json.loads(request.readline())
        _limit(cpu_seconds=told["cpu_seconds"])
        try:
            _do(told, Init(told["kind"], told["ending"], request.read(told["size"])), answer)
        except InitUnusable as error:
            _tell(answer, {"refused": error.message})
        except MemoryError:
            _tell(answer, {"refused": f"The init {told['kind']} takes more than {MEGABYTES} MB to decode: send a smaller one."})
    return 0


def _limit(*, cpu_seconds: int) -> None:
    """Limits memory and CPU time, and disables core dumps."""
    _set_limit(resource.RLIMIT_CORE, 0)
    _set_limit(resource.RLIMIT_CPU, cpu_seconds)
    statm = Path("/proc/self/statm")
    if statm.exists():  # Linux only
        taken = int(statm.read_text().split()[0]) * resource.getpagesize()
        _set_limit(resource.RLIMIT_AS, taken + MEGABYTES * 1024 * 1024)


def _set_limit(kind: int, most: int) -> None:
    """Sets a limit, but never raises one that exists."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _do(told: dict[str, Any], init: Init, answer: BinaryIO) -> None:
    """Raises InitUnusable."""
    match told["task"]:
        case "check":
            check_init(init)
            _tell(answer, {})
        case "crop":
            square = crop_init(init)
            _tell(answer, {"ending": square.ending, "size": len(square.data)})
            answer.write(square.data)
        case "example":
            made = make_example(init, ExampleShape(**told["wanted"]))
            _tell(answer, {"ending": made.ending, "size": len(made.data)})
            answer.write(made.data)
        case "decode":
            _send_frames(decode_init(init, **told["wanted"]), answer)


def _send_frames(frames: Iterable[tuple[NDArray[np.uint8], int]], answer: BinaryIO) -> None:
    for frame, times in frames:
        _tell(answer, {"times": times})
        answer.write(np.ascontiguousarray(frame).data)


def _tell(answer: BinaryIO, told: dict[str, Any]) -> None:
    answer.write(json.dumps(told).encode() + b"\n")
    answer.flush()


if __name__ == "__main__":
    main()
