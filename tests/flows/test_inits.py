"""A video that starts from a picture or another video, through the front door, with the built-in model."""

from __future__ import annotations

from base64 import b64encode

import numpy as np
import pytest

from promptreel.encoding.video import read_metadata
from tests.encoding.files import encode_image, encode_video
from tests.flows.service import SHORT, Service, decode

# Unguided: guidance drives a small model far from the init in its first step.
ASKED = SHORT | {"prompt": "a blue star at night", "num_frames": 8, "num_inference_steps": 8, "guidance_scale": 1}


def draw_ball(x: int) -> np.ndarray:
    """uint8 [96, 96, 3]: a red ball on a green ground, its middle at `x`."""
    rows, columns = np.mgrid[:96, :96]
    picture = np.full((96, 96, 3), (90, 180, 80), np.uint8)
    picture[(rows - 48) ** 2 + (columns - x) ** 2 < 20**2] = (210, 40, 40)
    return picture


@pytest.mark.parametrize("kind", ["image", "video"])
def test_distance_to_the_init_grows_with_strength(service: Service, kind: str) -> None:
    start = np.stack([draw_ball(x) for x in ([48] * 8 if kind == "image" else range(24, 72, 6))])
    sent = encode_image(start[0]) if kind == "image" else encode_video(start, fps=8)
    media_type = "image/png" if kind == "image" else "video/mp4"
    field = {f"init_{kind}": f"data:{media_type};base64,{b64encode(sent).decode()}"}

    made = [service.make(**ASKED, **field, strength=strength) for strength in (0.2, 0.5, 0.8)]

    distances = [np.abs(decode(service.download(each))[0].astype(float) - start).mean() for each in made]
    assert distances == sorted(distances)
    assert distances[2] > 2 * distances[0], distances
    assert made[0]["meta"][f"init_{kind}"] == "yes"
    again = service.make(**ASKED, **field, strength=0.2)
    assert service.download(again) == service.download(made[0])
    job = service.job(again)
    assert job.result is not None
    assert read_metadata(service.data_dir / "results" / job.result.key)["init_key"] == job.params.init_key
