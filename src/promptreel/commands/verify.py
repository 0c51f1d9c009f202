"""`promptreel verify`: makes a video again from its own comment, and compares the two files."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from promptreel.encoding.decoder import Decoder
from promptreel.errors import InvalidParams, StorageFailed
from promptreel.jobs.params import MAX_FRAMES, MAX_SEED, OUTPUT_TYPES, SCHEDULERS, VideoParams
from promptreel.media import MEDIA_TYPES, Init
from promptreel.models.kinds import ModelKind

if TYPE_CHECKING:
    from promptreel.generation.engine import Engine
    from promptreel.jobs.job import OnProgress
    from promptreel.storage.local import LocalStorage

MOST_PIXELS, MOST_STEPS = 2048, 1000


@dataclass(frozen=True)
class Told:
    """What a video's comment says of how it was made. `facts`: hashes, what the models' cards said, and versions, by name."""

    params: VideoParams
    facts: Mapping[str, str]


@dataclass(frozen=True)
class Difference:
    """A fact that was another one when the video was made. None: it was not written down."""

    name: str
    then: str | None
    now: str | None


@dataclass(frozen=True)
class Verdict:
    """`psnr`: how near the frames are, in dB; infinite if they are equal, None if they cannot be compared."""

    same_bytes: bool
    psnr: float | None
    differences: tuple[Difference, ...]


def read_told(path: Path) -> Told:
    """Reads and checks a video's comment. Raises InvalidParams for a file that Promptreel did not make."""
    from promptreel.encoding.video import read_metadata  # noqa: PLC0415 - of the extra `media`

    comment = read_metadata(path)
    add_ons = {
        f"{kind.label} {name}": sha256
        for kind in (ModelKind.LORA, ModelKind.EMBEDDING)
        for name, sha256 in _to_texts(comment.get(f"{kind.value}_sha256")).items()
    }
    model = {"model": str(comment.get("model_sha256"))}
    facts = model | add_ons | _read_cards(comment.get("cards")) | _to_texts(comment.get("versions"))
    try:
        params = TypeAdapter(VideoParams).validate_json(json.dumps(VideoParams.from_json(comment).to_json()), strict=True)
        _check_bounds(params)
    except (TypeError, ValueError, ValidationError) as error:
        raise InvalidParams(
            {"file": [f"{path.name} has no comment that says how Promptreel made it. Give the file as it was downloaded."]}
        ) from error
    return Told(params, facts)


def _read_cards(cards: object) -> dict[str, str]:
    """Files of older versions say nothing of cards."""
    told = cards.items() if isinstance(cards, dict) else ()
    return {f"{field} of {model}": value for model, card in told for field, value in _to_texts(card).items()}


def _to_texts(versions: object) -> dict[str, str]:
    return {str(name): str(version) for name, version in versions.items()} if isinstance(versions, dict) else {}


def _check_bounds(params: VideoParams) -> None:
    """Raises ValueError for numbers that no request can have: the file may come from a stranger."""
    sizes_fit = all(8 <= side <= MOST_PIXELS and side % 8 == 0 for side in (params.width, params.height))
    numbers_fit = (
        1 <= params.num_frames <= MAX_FRAMES
        and 1 <= params.fps <= MAX_FRAMES
        and 1 <= params.num_inference_steps <= MOST_STEPS
        and 0 <= params.seed <= MAX_SEED
        and math.isfinite(params.guidance_scale)
        and 0 <= params.strength <= 1
    )
    if not (sizes_fit and numbers_fit and params.scheduler in SCHEDULERS and params.output_type in OUTPUT_TYPES):
        raise ValueError("no request has these numbers")


def find_init(params: VideoParams, given: Init | None, storage: LocalStorage) -> Init | None:
    """The picture or video that the clip started from. Raises InvalidParams and StorageFailed if it is not there."""
    if params.init_key is None:
        return None
    if given is None:
        data = storage.read(params.init_key)
        if data is None:
            raise StorageFailed("The video started from a picture or video that is not stored here: give it with --init.")
        given = Init.from_key(params.init_key, data)
    if given.key != params.init_key:
        raise InvalidParams({"init": ["The video started from another file: its hash differs."]})
    return given


def make_again(path: Path, told: Told, folder: Path, *, engine: Engine, init: Init | None, on_progress: OnProgress) -> Verdict:
    """Makes the video anew in `folder`, and compares."""
    from promptreel.encoding.video import describe  # noqa: PLC0415 - of the extra `media`
    from promptreel.worker.recipes.video import Makers, make_video  # noqa: PLC0415 - torch loads slowly; bad files fail first

    again = folder / f"again.{told.params.output_type}"
    makers = Makers(engine, Decoder(), threading.Semaphore(1))
    made = make_video(told.params, again, makers=makers, on_progress=on_progress, init=init)
    if made.video.sha256 == describe(path, MEDIA_TYPES[told.params.output_type]).sha256:
        return Verdict(same_bytes=True, psnr=math.inf, differences=())
    now = read_told(again).facts
    names = [*told.facts, *(name for name in now if name not in told.facts)]
    differences = [Difference(name, told.facts.get(name), now.get(name)) for name in names]
    return Verdict(
        same_bytes=False,
        psnr=measure_psnr(path, again),
        differences=tuple(each for each in differences if each.then != each.now),
    )


def measure_psnr(one: Path, other: Path) -> float | None:
    """Peak signal-to-noise ratio in dB over all frames; infinite if they are equal, None if the files differ in shape."""
    import numpy as np  # noqa: PLC0415 - of the extra `media`

    frames, others = _decode(one), _decode(other)
    if frames is None or others is None or frames.shape != others.shape:
        return None
    error = float(np.square(frames.astype(np.float32) - others).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def _decode(path: Path) -> Any:
    """Frames, uint8 [T, H, W, 3]; None if the file cannot be decoded."""
    import av  # noqa: PLC0415 - of the extra `media`
    import numpy as np  # noqa: PLC0415

    try:
        with av.open(str(path)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    except (av.error.FFmpegError, IndexError, ValueError):
        return None


def explain(name: str, verdict: Verdict) -> list[str]:
    """The verdict in lines for a terminal."""
    if verdict.same_bytes:
        return [f"{name}: made again, and every byte is the same."]
    if verdict.psnr is None:
        lines = [f"{name}: made again, and the file differs. Its frames cannot be compared."]
    elif math.isinf(verdict.psnr):
        lines = [f"{name}: made again. Every pixel is the same; the file differs."]
    else:
        lines = [f"{name}: made again, and it differs: {verdict.psnr:.1f} dB PSNR."]
    for each in verdict.differences:
        lines.append(f"  {each.name}: {each.then or 'unknown'} then, {each.now or 'unknown'} now")
    if not verdict.differences:
        lines.append("  Models and versions are the same. Another processor or GPU computes other bits.")
    return lines
