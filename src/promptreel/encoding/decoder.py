"""Foreign pictures and videos, decoded in a process of their own: whatever they are made of, they cost a bounded amount."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, TypeVar

import numpy as np

from promptreel.encoding.decoder_process import BY_SIGNAL
from promptreel.errors import DecoderBusy, InitUnusable
from promptreel.media import Clip, Init

log = logging.getLogger(__name__)

CHECK_SECONDS = 8
"""Of a processor. Whoever checks a file decodes all of it, so that what was accepted can be decoded later."""
SLACK = 5
"""How many times as long what was accepted may take: a busy processor is slower, and frames are brought to a size besides."""
STANDSTILL_SECONDS = 300.0
"""By the clock, should a decoder wait for something that never comes."""
MOST_WAITING = 48
PATIENCE_SECONDS = 30.0
"""For the api, each of whose requests that waits holds one of its threads: how many may, and how long."""
LONGEST_LINE = 4096
# A thread of its own for each task would only take memory. One heap, whose large blocks go back at once.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1024 * 1024),
}

T = TypeVar("T")


class Decoder:
    """Does one task at a time, for all threads of this process, each in its turn.

    At most `most_waiting` threads wait, for `patience_seconds` each: others are told DecoderBusy. None: as many, and as long,
    as there are. `check_seconds` are a processor's. Its process starts with the first task, and ends with this one, however
    this one ends.
    """

    def __init__(
        self,
        *,
        most_waiting: int | None = None,
        patience_seconds: float | None = None,
        check_seconds: int = CHECK_SECONDS,
    ) -> None:
        self._check_seconds = check_seconds
        self._most_waiting = most_waiting
        self._patience = -1 if patience_seconds is None else patience_seconds
        self._waiting = 0
        self._counting = threading.Lock()
        self._turn = threading.Lock()
        self._process: _Process | None = None

    def close(self) -> None:
        """Ends its process; the next task starts another."""
        with self._turn:
            if self._process is not None:
                self._process.end()
                self._process = None

    def check(self, init: Init) -> None:
        """Decodes all of the file. Raises InitUnusable when that cannot be done within bounds, and DecoderBusy."""
        self._do("check", init, self._check_seconds, lambda answer: answer.read_line())

    def crop(self, init: Init) -> Init:
        """The largest square around a picture's centre, upright; as PNG or JPEG what few programs read.

        Raises InitUnusable and DecoderBusy.
        """

        def read_square(answer: _Process) -> Init:
            told = answer.read_line()
            return Init(init.kind, told["ending"], answer.read(told["size"]))

        return self._do("crop", init, self._check_seconds, read_square)

    def decode(self, init: Init, *, num_frames: int, fps: int, width: int, height: int) -> Clip:
        """A clip of `num_frames` frames, `fps` of them a second, at `width` x `height` pixels, as in encoding/inits.py.

        Raises InitUnusable and DecoderBusy.
        """
        frames = np.empty((num_frames, height, width, 3), np.uint8)

        def read_frames(answer: _Process) -> None:
            filled = 0
            while filled < num_frames:
                times = answer.read_line()["times"]
                answer.read_into(memoryview(frames[filled]).cast("B"))
                frames[filled + 1 : filled + times] = frames[filled]
                filled += times

        wanted = {"num_frames": num_frames, "fps": fps, "width": width, "height": height}
        self._do("decode", init, SLACK * self._check_seconds, read_frames, wanted=wanted)
        return Clip(frames, fps)

    def _do(self, task: str, init: Init, cpu_seconds: int, read: Callable[[_Process], T], **more: Any) -> T:
        """Once more in a new process when the first was killed from outside: that says nothing about the file."""
        about = {"kind": init.kind, "ending": init.ending, "size": len(init.data)}
        request = {"task": task, "cpu_seconds": cpu_seconds, **about, **more}
        with self._in_turn():
            try:
                return self._ask(request, init, read)
            except _Killed:
                log.warning("a decoder was killed while it decoded an init %s; it is tried once more", init.kind)
            try:
                return self._ask(request, init, read)
            except _Killed as killed:
                raise InitUnusable(
                    f"The init {init.kind} could not be decoded: its decoder was killed twice, most often for want of memory."
                ) from killed

    def _ask(self, request: dict[str, Any], init: Init, read: Callable[[_Process], T]) -> T:
        """Raises InitUnusable and _Killed."""
        if self._process is None or self._process.has_ended():
            self._process = _Process()
        process = self._process
        try:
            with process.bounded(STANDSTILL_SECONDS):
                process.send(request, init.data)
                return read(process)
        except _Refused as refused:
            raise InitUnusable(str(refused)) from None
        except OSError as error:  # it has ended, or closed its pipe and will
            self._process = None
            raise _explain_end(process.wait_and_end(), init, request["cpu_seconds"]) from error
        except BaseException:  # an answer that is none, or Ctrl-C amid one: nobody knows what it will say next
            self._process = None
            process.end()
            raise

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Raises DecoderBusy."""
        with self._counting:
            if self._waiting == self._most_waiting:
                raise DecoderBusy("Too many pictures and videos are being checked: send the request again in a few seconds.")
            self._waiting += 1
        try:
            if not self._turn.acquire(timeout=self._patience):
                raise DecoderBusy("The picture or video could not be checked in time: send the request again in a few seconds.")
            try:
                yield
            finally:
                self._turn.release()
        finally:
            with self._counting:
                self._waiting -= 1


class _Refused(Exception):
    """What is wrong with the file, in words for whoever sent it."""


class _Killed(Exception):
    """From outside: by an operator, or by a system that is short of memory."""


class _Process:
    """One decoder process and the pipes to it. Reading and writing raise OSError once it has ended."""

    def __init__(self) -> None:
        # Pillow warns of each tag that is wrong: a file must not fill the log.
        command = [sys.executable, "-W", "ignore", "-m", "promptreel.encoding.decoder_process"]
        self._process = subprocess.Popen(  # noqa: S603 - the command is our own
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | _ENVIRONMENT, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        self._stood_still = False
        self._end = weakref.finalize(self, _end, self._process)  # when we exit, too

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def send(self, request: dict[str, Any], data: bytes) -> None:
        self._requests.write(json.dumps(request).encode() + b"\n")
        self._requests.write(data)
        self._requests.flush()

    def read_line(self) -> dict[str, Any]:
        """Raises _Refused."""
        line = self._answers.readline(LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise EOFError
        told: dict[str, Any] = json.loads(line)
        if "refused" in told:
            raise _Refused(told["refused"])
        return told

    def read(self, size: int) -> bytes:
        data = self._answers.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def read_into(self, memory: memoryview) -> None:
        while memory:
            count = self._answers.readinto(memory)  # type: ignore[attr-defined] # typeshed's IO lacks it
            if count == 0:
                raise EOFError
            memory = memory[count:]

    @contextmanager
    def bounded(self, seconds: float) -> Iterator[None]:
        """Kills the process when the block takes longer."""

        def kill() -> None:
            self._stood_still = True
            _kill(self._process)

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        except EOFError as error:
            raise BrokenPipeError from error
        finally:
            timer.cancel()

    def end(self) -> None:
        self._end()

    def wait_and_end(self) -> int:
        """The exit code of one that has closed its pipe, and so is about to end; SIGXCPU's if it was killed for its delay."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self.end()
        return BY_SIGNAL + signal.SIGXCPU if self._stood_still else self._process.returncode


def _explain_end(code: int, init: Init, cpu_seconds: int) -> Exception:
    """What the end of a decoder amid a task says."""
    if code == BY_SIGNAL + signal.SIGXCPU:
        return InitUnusable(f"The init {init.kind} takes more than {cpu_seconds} s to decode: send a smaller or shorter one.")
    if code in {BY_SIGNAL + signal.SIGKILL, -signal.SIGKILL}:
        return _Killed()
    log.warning("a decoder ended with code %d over an init %s", code, init.kind)
    return InitUnusable(f"The init {init.kind} cannot be decoded: check the file, or save it again.")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Of it and its fork, and leaves no zombie."""
    _kill(process)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with suppress(OSError):  # what was not sent yet
            pipe.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:  # else its number may be another's
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
