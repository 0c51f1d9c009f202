"""The gate in front of every loader: it checks models' files, and a loader opens only what the gate returns.

Models that pass have known classes with arguments within bounds, files with exactly the tensors that these need, and no code.
The gate imports no torch, so the api can report what a worker would find.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from promptreel.errors import CheckpointUnusable
from promptreel.models.card_fields import CARD_NAME
from promptreel.models.configs import Config, ImageUNet, MotionAdapter, MotionUNet, TextEncoder, add_motion
from promptreel.models.index import INDEX_NAME
from promptreel.models.json_files import explain, shorten
from promptreel.models.kinds import ANIMATEDIFF
from promptreel.models.layouts import MOTION, Layout, lay_out
from promptreel.models.noise_table import read_noise_table, table_of_adapter
from promptreel.models.parts import ImageParts, Part, read_image_parts, read_part
from promptreel.models.registry import ModelCard
from promptreel.models.safety import check_folder, hash_files
from promptreel.models.tokenizers import TokenizerParts
from promptreel.models.weights import StoredTensor, check_finite

MAX_PARAMETERS = 3_000_000_000
"""The most parameters of all networks together. Stable Diffusion 1.5 with motion modules has 1.5 billion."""


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network to build: its class, its constructor's arguments, and where each tensor is stored."""

    class_name: str
    arguments: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that is loaded from a checkpoint. `unet` includes the motion modules, even if another file holds them."""

    card: ModelCard
    unet: Network
    vae: Network
    text_encoder: Network
    tokenizer: TokenizerParts
    noise_table: Mapping[str, Any]
    files: Mapping[str, Path]

    @property
    def networks(self) -> Mapping[str, Network]:
        """By component."""
        return {"unet": self.unet, "vae": self.vae, "text_encoder": self.text_encoder}


class Checked(Protocol):
    """A checkpoint of any family that has passed the gate. `files`: everything that is loaded, by the author's names."""

    @property
    def networks(self) -> Mapping[str, Network]: ...

    @property
    def files(self) -> Mapping[str, Path]: ...


def check_checkpoint(card: ModelCard, adapter: ModelCard | None = None, vae: ModelCard | None = None) -> Checkpoint:
    """Checks names, configs and the headers of weight files. `adapter` and `vae`: models that replace the checkpoint's own.

    Raises CheckpointUnusable with the reason.
    """
    if card.family != ANIMATEDIFF:
        raise CheckpointUnusable(f"model {card.model_id!r} is of family {card.family!r}; only {ANIMATEDIFF!r} can be run")
    image = read_image_parts(check_folder(card.path))
    networks, files = dict(image.networks), dict(image.files)
    for component, other in (("motion_adapter", adapter), ("vae", vae)):
        if other is not None:
            networks[component] = _rename_files(read_part(check_folder(other.path), component), component)
    _check_complete(networks, card)
    unet = _join(networks)
    _check_layouts(unet, networks)
    effective = card if adapter is None else replace(card, max_frames=adapter.max_frames)
    _check_fit(effective, unet, networks, image.tokenizer)
    for part in networks.values():
        files |= part.files
    motion = networks.get("motion_adapter")
    return Checkpoint(
        card=effective,
        unet=_to_network("UNetMotionModel", unet, {**networks["unet"].tensors, **(motion.tensors if motion else {})}),
        vae=_to_network(networks["vae"].class_name, networks["vae"].config, networks["vae"].tensors),
        text_encoder=_to_network("CLIPTextModel", networks["text_encoder"].config, networks["text_encoder"].tensors),
        tokenizer=image.tokenizer,
        noise_table=_read_table(image, card, adapter),
        files=files,
    )


def check_image_checkpoint(root: Path) -> ImageParts:
    """Checks a checkpoint by itself: it may lack motion modules and a VAE. Raises CheckpointUnusable."""
    image = read_image_parts(root)
    unet = image.networks["unet"].config
    if isinstance(unet, MotionUNet) or "motion_adapter" in image.networks:
        _check_layouts(_join(image.networks), image.networks)
    elif isinstance(unet, ImageUNet):
        layout = lay_out(_join({**image.networks, "motion_adapter": _made_up_adapter(unet)}))
        compare("unet", Layout({name: shape for name, shape in layout.items() if MOTION not in name}), image.networks["unet"])
    for component in ("vae", "text_encoder"):
        if component in image.networks:
            compare(component, lay_out(image.networks[component].config), image.networks[component])
    return image


def check_part(root: Path, component: str) -> Part:
    """Checks a motion adapter or a VAE by itself. Raises CheckpointUnusable."""
    part = read_part(root, component)
    if isinstance(part.config, MotionAdapter):
        layout = lay_out(_join({"unet": _made_up_unet(part.config), "motion_adapter": part}))
        compare(component, Layout({name: shape for name, shape in layout.items() if MOTION in name}), part)
    else:
        compare(component, lay_out(part.config), part)
    return part


def lack_vae() -> CheckpointUnusable:
    """The error for a checkpoint that has no VAE, and for which none is named."""
    return CheckpointUnusable(
        "The checkpoint has no VAE. Import a VAE, such as stabilityai/sd-vae-ft-mse; then import the checkpoint again with "
        "`--vae ID` (`vae` in a request)."
    )


def check_weights(checkpoint: Checked) -> None:
    """Reads every weight, which takes seconds for a large checkpoint. Raises CheckpointUnusable if one is not finite."""
    names = {path: name for name, path in checkpoint.files.items()}
    check_finite((tensor for network in checkpoint.networks.values() for tensor in network.tensors.values()), names)


def hash_checkpoint(checkpoint: Checked) -> str:
    """SHA-256 of the names and contents of what is loaded. The card does not change it."""
    return hash_files(checkpoint.files)


def _rename_files(part: Part, component: str) -> Part:
    """The names of another model's files must not be those of the checkpoint's own."""
    return replace(part, files={f"{component}: {name}": path for name, path in part.files.items()})


def _check_complete(networks: Mapping[str, Part], card: ModelCard) -> None:
    if "motion_adapter" in networks and isinstance(networks["unet"].config, MotionUNet):
        raise CheckpointUnusable(
            f"The checkpoint {card.model_id!r} has motion modules of its own. Use it without a motion adapter."
        )
    if "motion_adapter" not in networks and isinstance(networks["unet"].config, ImageUNet):
        # diffusers would silently use random motion modules.
        raise CheckpointUnusable(
            "The checkpoint has no motion adapter, so nothing would move as it should. Import one, and name it in the request; "
            f'or copy one into motion_adapter/ and add "motion_adapter": ["diffusers", "MotionAdapter"] '
            f"to {INDEX_NAME}."
        )
    if "vae" not in networks:
        raise lack_vae()


def _read_table(image: ImageParts, card: ModelCard, adapter: ModelCard | None) -> Mapping[str, Any]:
    if adapter is None and image.noise_file is not None:
        return read_noise_table(image.noise_file, card)
    schedule = card.beta_schedule or (adapter.beta_schedule if adapter else None)
    return table_of_adapter(image.noise_file, schedule, predicts_v=image.predicts_v)


def _made_up_adapter(unet: ImageUNet) -> Part:
    """One that fits a UNet, to know what the UNet must contain besides its motion modules."""
    config = MotionAdapter(
        block_out_channels=unet.block_out_channels,
        motion_layers_per_block=unet.layers_per_block,
        motion_norm_num_groups=1,
        motion_num_attention_heads=1,
    )
    return Part(class_name="MotionAdapter", config=config, tensors={}, files={})


def _made_up_unet(adapter: MotionAdapter) -> Part:
    blocks = len(adapter.block_out_channels)
    config = ImageUNet.model_validate(
        {
            "block_out_channels": adapter.block_out_channels,
            "layers_per_block": adapter.motion_layers_per_block,
            "down_block_types": ("DownBlock2D",) * blocks,
            "up_block_types": ("UpBlock2D",) * blocks,
            "norm_num_groups": 1,
            "attention_head_dim": 1,
        }
    )
    return Part(class_name="UNet2DConditionModel", config=config, tensors={}, files={})


def _join(networks: Mapping[str, Part]) -> MotionUNet:
    unet = networks["unet"].config
    adapter = networks["motion_adapter"].config if "motion_adapter" in networks else None
    if isinstance(unet, ImageUNet) and isinstance(adapter, MotionAdapter):
        try:
            return add_motion(unet, adapter)
        except ValidationError as error:
            reason = explain(error)
        except ValueError as error:
            reason = str(error)
        raise CheckpointUnusable(
            f"unet/ and motion_adapter/ do not fit together: {reason}. Use a motion adapter that was made for this UNet."
        )
    assert isinstance(unet, MotionUNet)
    return unet


def _check_layouts(unet: MotionUNet, networks: Mapping[str, Part]) -> None:
    """Raises CheckpointUnusable if the files do not contain exactly the tensors that the configs ask for."""
    layouts = {name: lay_out(networks[name].config) for name in ("vae", "text_encoder")}
    whole = layouts["unet"] = lay_out(unet)
    if isinstance(networks["unet"].config, ImageUNet):
        layouts["motion_adapter"] = Layout({name: shape for name, shape in whole.items() if MOTION in name})
        layouts["unet"] = Layout({name: shape for name, shape in whole.items() if MOTION not in name})
    check_size(layouts.values(), MAX_PARAMETERS, "use a Stable Diffusion 1.5 checkpoint.")
    for name, layout in layouts.items():
        compare(name, layout, networks[name])


def check_size(layouts: Iterable[Layout], most: int, advice: str) -> None:
    """Raises CheckpointUnusable if the configs ask for more than `most` parameters together."""
    parameters = sum(math.prod(shape) for layout in layouts for shape in layout.values())
    if parameters > most:
        raise CheckpointUnusable(f"The configs ask for {parameters:,} parameters. Promptreel loads {most:,} at most: {advice}")


def compare(component: str, layout: Layout, part: Part) -> None:
    """Raises CheckpointUnusable if the files do not hold exactly the tensors of the layout."""
    tensors, problems = part.tensors, []
    for verb, names in (("lacks", layout.keys() - tensors.keys()), ("should not hold", tensors.keys() - layout.keys())):
        if names:
            more = f" and {len(names) - 1} other tensors" if len(names) > 1 else ""
            problems.append(f"{verb} {shorten(min(names))}{more}")
    for name in sorted(layout.keys() & tensors.keys()):
        if tensors[name].shape != layout[name]:
            problems.append(f"has {name} in the shape {list(tensors[name].shape)} in place of {list(layout[name])}")
            break
    if not problems:
        return
    if any(name.endswith("config.json") for name in part.files):
        raise CheckpointUnusable(
            f"{component}/: its weights do not fit its config.json: it {'; it '.join(problems)}. "
            "Convert it to diffusers' layout, or copy the config that belongs to the weights."
        )
    what = component.replace("_", " ")
    raise CheckpointUnusable(
        f"{', '.join(part.files)} holds no usable {what}: it {'; it '.join(problems)}. Download it again, or take another "
        "version of it."
    )


def _check_fit(card: ModelCard, unet: MotionUNet, networks: Mapping[str, Part], tokenizer: TokenizerParts) -> None:
    """Raises CheckpointUnusable if components, or the card, do not fit together."""
    text, latents = networks["text_encoder"].config, getattr(networks["vae"].config, "latent_channels", None)
    assert isinstance(text, TextEncoder)
    if card.max_frames > unet.motion_max_seq_length:
        raise CheckpointUnusable(
            f"{CARD_NAME} says {card.max_frames} max_frames, but the motion adapter supports {unet.motion_max_seq_length}. "
            f"Write {unet.motion_max_seq_length} there: longer clips are made in windows of that many frames."
        )
    if unet.in_channels != latents:
        raise CheckpointUnusable(f"The UNet takes latents of {unet.in_channels} channels, but the VAE's have {latents}.")
    if unet.cross_attention_dim != text.hidden_size:
        raise CheckpointUnusable(
            f"The UNet takes text of {unet.cross_attention_dim} channels, but the text encoder's has {text.hidden_size}."
        )
    if max(tokenizer.vocab.values()) >= text.vocab_size:
        raise CheckpointUnusable(f"The tokenizer has ids that the text encoder lacks: it has only {text.vocab_size} tokens.")


def _to_network(class_name: str, config: Config, tensors: Mapping[str, StoredTensor]) -> Network:
    return Network(class_name=class_name, arguments=config.arguments, tensors=tensors)
