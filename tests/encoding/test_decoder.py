"""The decoder process: its limits, its failures, and its end."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from promptreel.encoding.decoder import Decoder
from promptreel.encoding.decoder_process import MEGABYTES
from promptreel.errors import DecoderBusy, InitUnusable
from promptreel.media import Init
from tests.encoding.files import encode_image, encode_video, make_bars, make_greys
from tests.hostile.containers import encode_h264, repeat_frames
from tests.waiting import wait_for

PICTURE = Init("image", "png", encode_image(make_bars()))
VIDEO = Init("video", "mp4", encode_video(make_greys(6)))


def processes() -> list[psutil.Process]:
    """The decoder processes that this process started, without their forks."""
    return [child for child in psutil.Process().children() if "promptreel.encoding.decoder_process" in child.cmdline()]


@pytest.fixture
def fresh() -> Iterator[tuple[Decoder, psutil.Process]]:
    """A decoder that has done one task, and its process."""
    before = set(processes())
    fresh = Decoder(most_waiting=3, patience_seconds=600)
    fresh.check(PICTURE)
    (process,) = set(processes()) - before
    yield fresh, process
    fresh.close()
    assert set(processes()) == before


def test_decoder_returns_what_its_functions_return_in_process(decoder: Decoder) -> None:
    clip = decoder.decode(VIDEO, num_frames=8, fps=25, width=64, height=32)

    assert (clip.fps, clip.frames.shape) == (25, (8, 32, 64, 3))
    assert [round((float(frame.mean()) - 20) / 10) for frame in clip.frames] == [0, 1, 2, 3, 4, 5, 5, 5]
    assert np.array_equal(decoder.decode(PICTURE, num_frames=2, fps=8, width=64, height=16).frames[1], make_bars())
    assert decoder.crop(Init("image", "gif", encode_image(make_bars(), "GIF"))).ending == "png"


def test_refusal_does_not_end_the_process(decoder: Decoder) -> None:
    decoder.check(PICTURE)
    before = processes()
    for _ in range(2):
        with pytest.raises(InitUnusable, match="cannot be decoded: check the file"):
            decoder.check(Init("image", "png", PICTURE.data[:60]))
    decoder.check(PICTURE)

    assert processes() == before


def test_what_takes_too_much_memory_is_refused(decoder: Decoder) -> None:
    """The file is small, but a frame of the requested size exceeds the limit."""
    wide = {"num_frames": 1, "fps": 1, "width": 16_384, "height": 8_192}

    with pytest.raises(InitUnusable, match=f"takes more than {MEGABYTES} MB to decode"):
        decoder.decode(PICTURE, **wide)


@pytest.mark.slow
def test_what_takes_too_long_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1, 576, 768, 3), np.uint8)
    slow = Init("video", "mp4", repeat_frames(encode_h264(noise, crf=1), [0] * 1800))

    with pytest.raises(InitUnusable, match="takes more than 1 s of CPU time to decode: send a smaller or shorter one"):
        Decoder(check_seconds=1).check(slow)


def test_hanging_decoder_is_killed_at_the_wall_clock_limit() -> None:
    """With no time at all, the limit is reached before the process can answer."""
    hanging = Decoder(hang_seconds=0)

    with pytest.raises(InitUnusable, match="was not decoded within 0 s: send a smaller or shorter one, or try again later"):
        hanging.check(PICTURE)


def test_killed_decoder_is_restarted_and_its_task_repeated(fresh: tuple[Decoder, psutil.Process]) -> None:
    decoder, process = fresh
    process.suspend()
    checking = threading.Thread(target=decoder.check, args=[PICTURE])
    checking.start()
    process.kill()
    checking.join()

    assert not process.is_running()
    decoder.check(VIDEO)


def test_too_many_at_once_are_told_to_try_again(fresh: tuple[Decoder, psutil.Process]) -> None:
    decoder, process = fresh
    process.suspend()
    checking = [threading.Thread(target=decoder.check, args=[PICTURE]) for _ in range(3)]
    for thread in checking:
        thread.start()
    wait_for(lambda: _is_full(decoder))
    with pytest.raises(DecoderBusy, match="again in a few seconds"):
        decoder.check(PICTURE)
    process.resume()
    for thread in checking:
        thread.join()
    decoder.check(PICTURE)


def _is_full(decoder: Decoder) -> bool:
    return decoder._waiting == 3


@pytest.mark.parametrize("busy", [False, True])
def test_decoder_ends_when_its_parent_is_killed(busy: bool) -> None:
    """Whether the decoder is idle or busy."""
    code = (
        "import sys; from promptreel.encoding.decoder import Decoder; from promptreel.media import Init\n"
        "decoder = Decoder(check_seconds=600); data = sys.stdin.buffer.read()\n"
        "decoder.check(Init('image', 'gif', data[:int(sys.argv[1])])); print('ready', flush=True)\n"
        "while sys.argv[2] == 'True': decoder.check(Init('video', 'mp4', data[int(sys.argv[1]):]))\n"
        "import time; time.sleep(600)"
    )
    picture, video = encode_image(make_bars(), "GIF"), encode_video(make_greys(300, size=256) if busy else make_greys(2))
    asking = subprocess.Popen(
        [sys.executable, "-c", code, str(len(picture)), str(busy)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    asking.stdin.write(picture + video)
    asking.stdin.close()
    assert asking.stdout.readline() == b"ready\n"
    (decoder,) = psutil.Process(asking.pid).children()
    family = [decoder, *wait_for(decoder.children)] if busy else [decoder]

    asking.send_signal(signal.SIGKILL)
    asking.wait()

    for process in family:
        wait_for(lambda process=process: not process.is_running())
    asking.stdout.close()
