"""What a model's files are, and whether they can be used: a look at their headers and configs, before the model is stored."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from promptreel.errors import CheckpointUnusable
from promptreel.jobs.import_params import ImportParams
from promptreel.models.card_fields import CARD_NAME, read_card_file
from promptreel.models.configs import MotionAdapter, MotionUNet, VaeKL
from promptreel.models.detection import detect
from promptreel.models.families import WAN
from promptreel.models.foreign import made_for
from promptreel.models.gate import check_image_checkpoint, check_part, lack_vae
from promptreel.models.json_files import shorten
from promptreel.models.kinds import ModelKind
from promptreel.models.noise_table import ADAPTER_SCHEDULE, has_own_table
from promptreel.models.parts import Part
from promptreel.models.wan.card import fill_card
from promptreel.models.wan.checkpoint import read_wan
from promptreel.models.weights import StoredTensor, check_dtypes, check_finite, read_header

TRAINED_FRAMES = 16
"""What AnimateDiff's adapters were trained on. They have positions for 24 or 32, and are best at as many as they saw."""
_TABLE_OF_ADAPTER = "AnimateDiff's motion modules were trained on it, whatever the image checkpoint's scheduler file says"
_CHANNELS_OF_SD3 = 16
_SCALING_OF_SDXL = 0.13025
_TABLE_GIVEN = "it was given with the import"


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """`card`: what the import names, completed by what the model's files say."""

    kind: ModelKind
    family: str | None
    base: str | None
    card: Mapping[str, Any]


def inspect(
    paths: Mapping[str, Path],
    params: ImportParams,
    *,
    facts: Mapping[str, str] | None = None,
    reads_weights: bool = False,
) -> Inspected:
    """`paths`: where each file is, by the author's name. `reads_weights`: checks every number, which takes seconds.

    Raises CheckpointUnusable with what is wrong, and what to do.
    """
    found = detect(paths)
    if params.expects not in (None, found.kind.value):
        raise CheckpointUnusable(f"This is {found.kind.with_article}, not {ModelKind(params.expects).with_article}.")
    card = {**(facts or {}), **_read_own_card(paths), **params.card}
    with _laid_out(paths) as root:
        match found.kind:
            case ModelKind.CHECKPOINT if found.family == WAN.name:
                card = fill_card(read_wan(root), card)
            case ModelKind.CHECKPOINT:
                card |= _inspect_checkpoint(root, card)
            case ModelKind.MOTION_ADAPTER:
                card |= _inspect_adapter(check_part(root, found.kind.value), card)
            case ModelKind.VAE:
                _check_vae(check_part(root, found.kind.value))
            case ModelKind.LORA | ModelKind.EMBEDDING:
                check_dtypes(read_all_tensors(paths), found.kind.value)
                card = {"trigger_words": found.words, **card} if found.words else card
    if reads_weights:
        check_finite(read_all_tensors(paths).values(), {path: name for name, path in paths.items()})
    return Inspected(kind=found.kind, family=found.family, base=found.base, card=card)


def _read_own_card(paths: Mapping[str, Path]) -> dict[str, Any]:
    """What the folder's own promptreel.json says, if it has one."""
    if CARD_NAME not in paths:
        return {}
    own = read_card_file(paths[CARD_NAME])
    return {name: value for name, value in own.items() if value not in (None, [], "") and name != "family"}


def _check_vae(part: Part) -> None:
    """Raises CheckpointUnusable for a VAE of other latents. That of Stable Diffusion XL has the same shapes, so only its config
    tells it apart.
    """
    if isinstance(part.config, VaeKL) and part.config.latent_channels == _CHANNELS_OF_SD3:
        raise made_for("Stable Diffusion 3 or Flux")
    if isinstance(part.config, VaeKL) and part.config.scaling_factor == _SCALING_OF_SDXL:
        raise made_for("Stable Diffusion XL")


def _inspect_checkpoint(root: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    image = check_image_checkpoint(root)
    if "vae" not in image.networks and "vae" not in card:
        raise lack_vae()
    motion = image.networks.get("motion_adapter")
    config = motion.config if motion else image.networks["unet"].config
    if not isinstance(config, MotionAdapter | MotionUNet):
        return {"has_motion": False}
    told = {"has_motion": True, "max_frames": _max_frames(config, card)}
    if image.noise_file is not None and has_own_table(image.noise_file) and "beta_schedule" not in card:
        return {**told, "noise_table": "the checkpoint's own", "noise_table_why": "its scheduler file is not that of pictures"}
    return told | _tell_table(card)


def _inspect_adapter(part: Part, card: Mapping[str, Any]) -> dict[str, Any]:
    assert isinstance(part.config, MotionAdapter)
    return {"max_frames": _max_frames(part.config, card), **_tell_table(card)}


def _tell_table(card: Mapping[str, Any]) -> dict[str, Any]:
    """The noise table that is taken, and why."""
    given = card.get("beta_schedule")
    table = given or ADAPTER_SCHEDULE
    return {
        "beta_schedule": table,
        "noise_table": f"{table} betas from 0.00085 to 0.012",
        "noise_table_why": _TABLE_GIVEN if given else _TABLE_OF_ADAPTER,
    }


def _max_frames(config: MotionAdapter | MotionUNet, card: Mapping[str, Any]) -> int:
    given: int | None = card.get("max_frames")
    return given or min(TRAINED_FRAMES, config.motion_max_seq_length)


def read_all_tensors(paths: Mapping[str, Path]) -> dict[str, StoredTensor]:
    """All tensors of all weight files, from their headers. Raises CheckpointUnusable."""
    return {
        f"{name}: {key}": tensor
        for name, path in paths.items()
        if name.endswith(".safetensors")
        for key, tensor in read_header(path, name).items()
    }


@contextmanager
def _laid_out(paths: Mapping[str, Path]) -> Iterator[Path]:
    """A folder with links to these files, by the author's names, and nothing else."""
    with tempfile.TemporaryDirectory() as folder:
        for name, path in paths.items():
            parts = PurePosixPath(name)
            if parts.is_absolute() or ".." in parts.parts:
                raise CheckpointUnusable(f"{shorten(repr(name))} is no name of a file in a model's folder.")
            link = Path(folder, parts)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path.absolute())
        yield Path(folder)
