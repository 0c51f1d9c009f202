"""Decodes clients' pictures and videos in a separate process, with limits on memory and time."""

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
from dataclasses import asdict
from typing import IO, Any, TypeVar

from promptreel.errors import DecoderBusy, InitUnusable
from promptreel.extras import install_command, is_installed
from promptreel.media import Clip, ExampleShape, Init, InitKind

log = logging.getLogger(__name__)

CHECK_SECONDS = 8
"""CPU seconds. A check decodes the whole file, so that an accepted file can also be decoded later."""
DECODE_FACTOR = 5
"""`decode` may take this many times the CPU seconds of a check: it also scales frames, and may run on a busier CPU."""
HANG_SECONDS = 300.0
"""Wall-clock limit of one task, in case the decoder hangs."""
MOST_WAITING = 48
PATIENCE_SECONDS = 30.0
"""The api's limits: how many requests may use or await the decoder, and how long each waits. Each one blocks a thread."""
LONGEST_LINE = 4096
BY_SIGNAL = 128
"""128 plus the signal's number is the exit code of a child that a signal ended, as in a shell."""
# One thread per library and one malloc arena save memory; freed large blocks go straight back to the system.
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1024 * 1024),
}

T = TypeVar("T")


class Decoder:
    """Runs one decoding task at a time. Threads of this process take turns.

    At most `most_waiting` threads may use or await it, and each waits up to `patience_seconds`; None means no limit. A thread
    over a limit gets DecoderBusy. A check may take `check_seconds` of CPU time, and any task `hang_seconds` of wall-clock time.

    The first task starts the decoder's process. It ends with this process, even if this process is killed.
    """

    def __init__(
        self,
        *,
        most_waiting: int | None = None,
        patience_seconds: float | None = None,
        check_seconds: int = CHECK_SECONDS,
        hang_seconds: float = HANG_SECONDS,
    ) -> None:
        self._check_seconds = check_seconds
        self._hang_seconds = hang_seconds
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
        """Decodes the whole file. Raises InitUnusable if the file is damaged or exceeds a limit. Raises DecoderBusy."""
        self._run("check", init, self._check_seconds, lambda answer: answer.read_line())

    def crop(self, init: Init) -> Init:
        """The largest centered square of a picture, turned upright, as encoding/decoding.py makes it.

        Raises InitUnusable and DecoderBusy.
        """

        return self._run("crop", init, self._check_seconds, lambda answer: answer.read_file(init.kind))

    def make_example(self, init: Init, shape: ExampleShape) -> Init:
        """The picture or clip as a trainer reads it, as encoding/examples.py makes it. Raises InitUnusable and DecoderBusy."""
        seconds = DECODE_FACTOR * self._check_seconds
        return self._run("example", init, seconds, lambda answer: answer.read_file(init.kind), wanted=asdict(shape))

    def decode(self, init: Init, *, num_frames: int, fps: int, width: int, height: int) -> Clip:
        """The init as a clip of `num_frames` frames at this size in pixels, as encoding/decoding.py makes it.

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
        self._run("decode", init, DECODE_FACTOR * self._check_seconds, read_frames, wanted=wanted)
        return Clip(frames, fps)

    def _run(self, task: str, init: Init, cpu_seconds: int, read: Callable[[_Process], T], **arguments: Any) -> T:
        """Runs a task. If its process is killed from outside, the file may be fine: runs the task once more."""
        request = {
            "task": task,
            "cpu_seconds": cpu_seconds,
            "kind": init.kind,
            "ending": init.ending,
            "size": len(init.data),
            **arguments,
        }
        with self._in_turn():
            try:
                return self._send(request, init, read)
            except _Killed:
                log.warning("a decoder was killed while it decoded an init %s; trying once more", init.kind)
            try:
                return self._send(request, init, read)
            except _Killed as killed:
                raise InitUnusable(
                    f"The init {init.kind} could not be decoded: its decoder was killed twice, usually because the server is "
                    "short of memory. Send a smaller one, or try again later."
                ) from killed

    def _send(self, request: dict[str, Any], init: Init, read: Callable[[_Process], T]) -> T:
        """Sends one request and reads its answer. Raises InitUnusable and _Killed."""
        if not is_installed("media"):
            raise InitUnusable(
                f"This server cannot read pictures and videos. Its operator can add support with: {install_command('media')}"
            )
        if self._process is None or self._process.has_ended():
            self._process = _Process()
        process = self._process
        try:
            with process.bounded(self._hang_seconds):
                process.send(request, init.data)
                return read(process)
        except _Refused as refused:
            raise InitUnusable(str(refused)) from None
        except OSError as error:  # the process has ended or is about to
            self._process = None
            exit_code = process.wait_and_end()
            if process.timed_out:
                raise InitUnusable(
                    f"The init {init.kind} was not decoded within {self._hang_seconds:g} s: send a smaller or shorter one, "
                    "or try again later."
                ) from error
            raise _explain_exit(exit_code, init, request["cpu_seconds"]) from error
        except BaseException:  # after a malformed answer, or Ctrl-C amid an answer, the rest of the pipe is unusable
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
    """A decoder process and its pipes. Inside `bounded`, reading and writing raise OSError once the process has ended."""

    def __init__(self) -> None:
        # -W ignore: Pillow warns about every bad tag, so one file could flood the log.
        command = [sys.executable, "-W", "ignore", "-m", "promptreel.encoding.decoder_process"]
        self._process = subprocess.Popen(  # noqa: S603 - the command is our own
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | _ENVIRONMENT, start_new_session=True
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        self.timed_out = False
        self._end = weakref.finalize(self, _end, self._process)  # runs at interpreter exit too

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def send(self, request: dict[str, Any], data: bytes) -> None:
        self._requests.write(json.dumps(request).encode() + b"\n")
        self._requests.write(data)
        self._requests.flush()

    def read_line(self) -> dict[str, Any]:
        """The next line of the answer, parsed. Raises _Refused if the decoder refuses the file."""
        line = self._answers.readline(LONGEST_LINE)
        if not line.endswith(b"\n"):
            raise EOFError
        parsed: dict[str, Any] = json.loads(line)
        if "refused" in parsed:
            raise _Refused(parsed["refused"])
        return parsed

    def read(self, size: int) -> bytes:
        data = self._answers.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def read_file(self, kind: InitKind) -> Init:
        file = self.read_line()
        return Init(kind, file["ending"], self.read(file["size"]))

    def read_into(self, memory: memoryview) -> None:
        while memory:
            count = self._answers.readinto(memory)  # type: ignore[attr-defined] # typeshed's IO lacks it
            if count == 0:
                raise EOFError
            memory = memory[count:]

    @contextmanager
    def bounded(self, seconds: float) -> Iterator[None]:
        """Kills the process and sets `timed_out` if the block takes longer than `seconds`."""

        def kill() -> None:
            self.timed_out = True
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
        """Waits for a process that has closed its pipe, and returns its exit code. Kills a process that stays."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self.end()
        return self._process.returncode


def _explain_exit(code: int, init: Init, cpu_seconds: int) -> Exception:
    """The error for a decoder that exited with `code` during a task."""
    if code == BY_SIGNAL + signal.SIGXCPU:
        return InitUnusable(
            f"The init {init.kind} takes more than {cpu_seconds} s of CPU time to decode: send a smaller or shorter one."
        )
    if code in {BY_SIGNAL + signal.SIGKILL, -signal.SIGKILL}:
        return _Killed()
    log.warning("a decoder exited with code %d while it decoded an init %s", code, init.kind)
    return InitUnusable(f"The init {init.kind} cannot be decoded: check the file, or save it again.")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kills the process and its child. Then waits for it, so that no zombie remains."""
    _kill(process)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with suppress(OSError):  # closing flushes, which fails if the process has not read everything
            pipe.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:  # otherwise its pid may belong to another process
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
