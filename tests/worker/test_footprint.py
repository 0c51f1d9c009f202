from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import psutil

from promptreel.bootstrap import BUILT_IN_MODELS
from promptreel.jobs.params import MAX_FRAMES, VideoParams
from promptreel.models.registry import DEFAULT_MODEL_ID, ModelCard, ModelRegistry
from promptreel.worker.recipes.video_footprint import estimate_bytes
from promptreel.worker.room import machine_memory, return_freed_memory

MEGABYTE = 1024 * 1024
LARGEST = VideoParams(model_id="m", prompt="a cat", width=1792, height=1024, num_frames=MAX_FRAMES)


def card(native: int | None) -> ModelCard:
    registry = ModelRegistry(built_in=BUILT_IN_MODELS, models_dir=Path("none"))
    return replace(registry.get(DEFAULT_MODEL_ID), native_width=native, native_height=native)


def test_largest_clip_of_a_model_with_a_small_native_size_takes_what_its_encoder_takes() -> None:
    """What was measured at 1792x1024: 124 to 165 MB as mp4, 326 to 369 as webm, up to 1,270 as a gif of noise."""
    megabytes = {
        kind: estimate_bytes(replace(LARGEST, output_type=kind), card(96)) / MEGABYTE for kind in ("mp4", "webm", "gif")
    }

    assert 120 < megabytes["mp4"] < 200
    assert 300 < megabytes["webm"] < 450
    assert 1_200 < megabytes["gif"] < 1_500


def test_clip_that_is_generated_large_takes_what_its_frames_take() -> None:
    frames = 3 * LARGEST.num_frames * LARGEST.width * LARGEST.height

    assert estimate_bytes(LARGEST, card(None)) > 2 * frames  # the frames are put together from parts
    assert estimate_bytes(replace(LARGEST, init_key="inits/image/1.png"), card(None)) > 4 * frames
    assert estimate_bytes(replace(LARGEST, num_frames=8), card(None)) < frames


def test_clip_of_wan_takes_its_text_and_the_floats_of_its_init() -> None:
    sd, wan = card(None), replace(card(None), family="wan")
    small = VideoParams(model_id="m", prompt="a cat", width=832, height=480, num_frames=81)
    pixels = small.num_frames * small.width * small.height

    assert estimate_bytes(small, wan) - estimate_bytes(small, sd) == 2 * 512 * 4096 * 4
    given = replace(small, init_key="inits/image/1.png")
    assert estimate_bytes(given, wan) - estimate_bytes(given, sd) > 12 * pixels


def test_default_request_fits_many_times_over() -> None:
    default = VideoParams(model_id="m", prompt="a cat")

    assert 8 * estimate_bytes(default, card(96)) < 512 * MEGABYTE


def test_memory_of_a_container_counts_where_it_is_less(tmp_path: Path) -> None:
    limited, without, gone = tmp_path / "memory.max", tmp_path / "unlimited", tmp_path / "gone"
    limited.write_text("104857600\n")
    without.write_text("max\n")

    assert machine_memory((gone, limited, without)) == 104857600
    assert machine_memory((gone, without)) > 104857600


def test_freed_memory_returns_to_the_system() -> None:
    """Blocks of 64 kB in 128 MB, freed but for a few: glibc by itself gives back what lies behind the last of them alone."""
    memory = psutil.Process().memory_info
    blocks = [bytearray(64 * 1024) for _ in range(2048)]
    kept = blocks[::512] + blocks[-1:]
    del blocks
    before = memory().rss
    return_freed_memory()

    assert before - memory().rss > 64 * MEGABYTE
    assert len(kept) == 5
