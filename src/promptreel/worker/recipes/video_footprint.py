"""How much memory a video needs of its own while it is made, beside the model and what jobs share."""

from __future__ import annotations

from promptreel.generation.engine import generated_size
from promptreel.jobs.params import VideoParams
from promptreel.models.registry import ModelCard

# Bytes a pixel and frame as the clip is generated: its frames, which are put together of parts, and what a sampler keeps of its
# latents, some twelve of them at a sixteenth of the pixels' number in floats.
_GENERATED = 2 * 3 + 6
_INIT = 2 * 3  # more, for the frames that it starts from
# Bytes a pixel of one frame as it is encoded: what the encoder looks ahead and remembers. Measured at 1792x1024.
_ENCODER = {"mp4": 75, "webm": 215, "gif": 30}
# A gif's palette is chosen by how often each color occurs.
_COLOR, _MOST_COLORS = 80, 1 << 24


def estimate_bytes(params: VideoParams, card: ModelCard) -> int:
    """At most, for a clip that is hard to encode; half of it is common."""
    width, height = generated_size(card, params)
    generated = params.num_frames * width * height * (_GENERATED + (_INIT if params.init_key else 0))
    pixels = params.width * params.height
    colors = min(_MOST_COLORS, params.num_frames * pixels) if params.output_type == "gif" else 0
    return generated + pixels * _ENCODER[params.output_type] + colors * _COLOR
