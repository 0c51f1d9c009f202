"""How much memory one video needs while it is made, apart from the model and what jobs share."""

from __future__ import annotations

from promptreel.jobs.params import VideoParams
from promptreel.models.families import WAN, generated_size
from promptreel.models.registry import ModelCard

# Bytes per pixel and frame while the clip is generated: the frames twice, as parts and put together; a sampler's latents, about
# twelve in floats, each with a sixteenth as many numbers as there are pixels; and as much again for what a step makes of them.
_GENERATED = 2 * 3 + 2 * 12 * 4 // 16
_INIT = 2 * 3  # in addition, for the init's frames
# Wan needs in addition: the text of two rows; with an init, per pixel and frame, its pixels in floats, and its latents.
_WAN_TEXT = 2 * 512 * 4096 * 4
_WAN_INIT = 3 * 4 + 1
# Bytes per pixel of one frame while encoding: the encoder's lookahead and reference frames. Measured at 1792x1024.
_ENCODER = {"mp4": 75, "webm": 215, "gif": 30}
# Bytes per distinct color, and the most colors: a gif's palette is chosen by counting each color.
_COLOR, _MOST_COLORS = 80, 1 << 24


def estimate_bytes(params: VideoParams, card: ModelCard) -> int:
    """An upper bound, for a clip that is hard to encode. Half of it is typical."""
    width, height = generated_size(card, params)
    is_wan = card.family == WAN.name
    a_pixel = _GENERATED + (_INIT + is_wan * _WAN_INIT if params.init_key else 0)
    generated = params.num_frames * width * height * a_pixel + is_wan * _WAN_TEXT
    pixels = params.width * params.height
    colors = min(_MOST_COLORS, params.num_frames * pixels) if params.output_type == "gif" else 0
    return generated + pixels * _ENCODER[params.output_type] + colors * _COLOR
