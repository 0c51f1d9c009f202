"""Decodes foreign pictures and videos in a separate process, with bounded memory and time."""

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

from promptreel.errors import DecoderBusy, InitUnusable
from promptreel.extras import install_command, is_installed
from promptreel.media import Clip, Init

log = logging.getLogger(__name__)

CHECK_SECONDS = 8
"""CPU seconds. A check decodes the whole file, so an accepted file can be decoded later."""
SLACK = 5
"""`decode` gets this many times the CPU seconds of a check: a busy CPU is slower, and frames are scaled too."""
STANDSTILL_SECONDS = 300.0
"""Wall-clock limit of one task, in case a decoder blocks."""
MOST_WAITING = 48
PATIENCE_SECONDS = 30.0
"""For the api: how many requests may wait for its decoder, and how long. Each of them blocks a thread."""
LONGEST_LINE = 4096
BY_SIGNAL = 128
"""An exit code of this plus a number means that signal ended the child, as in a shell."""
# One thread per library and one malloc arena save memory; freed large blocks go straight back to the system.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1024 * 1024),
}

T = TypeVar("T")


class Decoder:
    """Runs one decoding task at a time; the threads of this process take turns.

    At most `most_waiting` threads use it at once, and each waits up to `patience_seconds` for its turn; the rest get
    DecoderBusy. None means no limit. `check_seconds` are CPU seconds. The decoder's process starts with the first task and
    ends with this process, even if this one is killed.
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
        """Ends the decoder's process; the next task starts another."""
        with self._turn:
            if self._process is not None:
                self._process.end()
                self._process = None

    def check(self, init: Init) -> None:
        """Decodes the whole file. Raises InitUnusable if it is damaged or exceeds a limit, and DecoderBusy."""
        self._do("check", init, self._check_seconds, lambda answer: answer.read_line())

    def crop(self, init: Init) -> Init:
        """The largest centered square of a picture, upright, as in encoding/inits.py.

        Raises InitUnusable and DecoderBusy.
        """

        def read_square(answer: _Process) -> Init:
            told = answer.read_line()
            return Init(init.kind, told["ending"], answer.read(told["size"]))

        return self._do("crop", init, self._check_seconds, read_square)

    def decode(self, init: Init, *, num_frames: int, fps: int, width: int, height: int) -> Clip:
        """The init as a clip of this length and size (pixels), as in encoding/inits.py.

        Raises InitUnusable and DecoderBusy.
        """
        import numpy as np  # noqa: PLC0415 - an extra

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
        """Runs a task, and repeats it once if its process was killed from outside: that says nothing about the file."""
        about = {"kind": init.kind, "ending": init.ending, "size": len(init.data)}
        request = {"task": task, "cpu_seconds": cpu_seconds, **about, **more}
        with self._in_turn():
            try:
                return self._ask(request, init, read)
            except _Killed:
                log.warning("a decoder was killed while it decoded an init %s; trying once more", init.kind)
            try:
                return self._ask(request, init, read)
            except _Killed as killed:
                raise InitUnusable(
                    f"The init {init.kind} could not be decoded: its decoder was killed twice, usually because the server is "
                    "short of memory. Send a smaller one, or try again later."
                ) from killed

    def _ask(self, request: dict[str, Any], init: Init, read: Callable[[_Process], T]) -> T:
        """Sends one request and reads its answer. Raises InitUnusable and _Killed."""
        if not is_installed("media"):
            raise InitUnusable(
                f"This server cannot read pictures and videos. Its operator can add support with: {install_command('media')}"
            )
        if self._process is None or self._process.has_ended():
            self._process = _Process()
        process = self._process
        try:
            with process.bounded(STANDSTILL_SECONDS):
                process.send(request, init.data)
                return read(process)
        except _Refused as refused:
            raise InitUnusable(str(refused)) from None
        except OSError as error:  # the process has ended or is about to
            self._process = None
            raise _explain_end(process.wait_and_end(), init, request["cpu_seconds"]) from error
        except BaseException:  # a malformed answer, or Ctrl-C in the middle of one: the pipe is out of sync
            self._process = None
            process.end()
            raise

    @contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Waits for this thread's turn and holds it during the block. Raises DecoderBusy."""
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
    """The file is unusable; the message is for its sender."""


class _Killed(Exception):
    """The decoder was killed from outside: by an operator, or by a kernel that is short of memory."""


class _Process:
    """A decoder process and its pipes. Reading and writing raise OSError once it has ended."""

    def __init__(self) -> None:
        # -W ignore: Pillow warns about every bad tag, and a file must not flood the log.
        command = [sys.executable, "-W", "ignore", "-m", "promptreel.encoding.decoder_process"]
        self._process = subprocess.Popen(  # noqa: S603 - the command is our own
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | _ENVIRONMENT, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        self._timed_out = False
        self._end = weakref.finalize(self, _end, self._process)  # runs at interpreter exit too

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def send(self, request: dict[str, Any], data: bytes) -> None:
        self._requests.write(json.dumps(request).encode() + b"\n")
        self._requests.write(data)
        self._requests.flush()

    def read_line(self) -> dict[str, Any]:
        """The next line of the answer, parsed. Raises _Refused when it says that the file is unusable."""
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
        """Kills the process when the block takes longer than `seconds`."""

        def kill() -> None:
            self._timed_out = True
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
        """The exit code of a process that is about to end, since its pipe is closed; SIGXCPU's if `bounded` killed it."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self.end()
        return BY_SIGNAL + signal.SIGXCPU if self._timed_out else self._process.returncode


def _explain_end(code: int, init: Init, cpu_seconds: int) -> Exception:
    """The error for a decoder that exited with `code` during a task."""
    if code == BY_SIGNAL + signal.SIGXCPU:
        return InitUnusable(f"The init {init.kind} takes more than {cpu_seconds} s to decode: send a smaller or shorter one.")
    if code in {BY_SIGNAL + signal.SIGKILL, -signal.SIGKILL}:
        return _Killed()
    log.warning("a decoder ended with code %d over an init %s", code, init.kind)
    return InitUnusable(f"The init {init.kind} cannot be decoded: check the file, or save it again.")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills the process and its fork, and leaves no zombie."""
    _kill(process)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with suppress(OSError):  # closing flushes, which fails if data is left
            pipe.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:  # otherwise its pid may belong to another process
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
