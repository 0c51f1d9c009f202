"""The gate in front of every loader: it checks a checkpoint's folder, and a loader opens only what it returns.

A checkpoint passes if its classes are known, their arguments are within bounds, its files hold exactly the tensors that these
need, and nothing in it is code. The gate does not import torch, so the api can use it, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from promptreel.errors import CheckpointUnusable
from promptreel.models.configs import NETWORKS, Config, ImageUNet, MotionAdapter, MotionUNet, TextEncoder, add_motion
from promptreel.models.json_files import explain, read_model, read_object, shorten
from promptreel.models.layouts import MOTION, Layout, lay_out
from promptreel.models.noise_table import NAME as NOISE_NAME
from promptreel.models.noise_table import read_noise_table
from promptreel.models.registry import CARD_NAME, ModelCard
from promptreel.models.safety import check_folder, hash_files
from promptreel.models.tokenizers import TokenizerParts, read_tokenizer
from promptreel.models.weights import AGAIN, StoredTensor, check_dtypes, check_finite, find_weights, read_tensors

FAMILY = "animatediff"
PIPELINES = ("AnimateDiffPipeline", "StableDiffusionPipeline")
CLASSES = {
    "unet": r"diffusers\.(UNet2DConditionModel|UNetMotionModel)",
    "motion_adapter": r"diffusers\.MotionAdapter",
    "vae": r"diffusers\.(AutoencoderKL|AutoencoderDC|AutoencoderTiny)",
    "text_encoder": r"transformers\.CLIPTextModel",
    "tokenizer": r"transformers\.CLIPTokenizer(Fast)?",
    "scheduler": r"diffusers\.[A-Z][A-Za-z0-9]{0,99}Scheduler",
}
"""The classes that model_index.json may name, by component."""
UNUSED = {
    "safety_checker": r"stable_diffusion\.StableDiffusionSafetyChecker",
    "feature_extractor": r"transformers\.(CLIPImageProcessor|CLIPFeatureExtractor)",
    "image_encoder": r"transformers\.CLIPVisionModelWithProjection",
}
"""Components of public Stable Diffusion checkpoints that are never loaded."""
STEM = "diffusion_pytorch_model"
STEMS = {"text_encoder": "model"}
"""The names of weight files by component, without suffix. STEM is the name for all others."""
MAX_PARAMETERS = 3_000_000_000
"""The most parameters of all networks together. Stable Diffusion 1.5 with motion modules has 1.5 billion."""

INDEX_NAME = "model_index.json"

# diffusers renamed the parts of a VAE's attention.
_OLD_ATTENTION = re.compile(r"(\.mid_block\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)")
_NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


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
    root: Path
    unet: Network
    vae: Network
    text_encoder: Network
    tokenizer: TokenizerParts
    noise_table: Mapping[str, Any]
    files: tuple[Path, ...]


class _Named(BaseModel):
    """The key that each config.json of diffusers has. Those of transformers lack it."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    class_name: str = Field(alias="_class_name", max_length=100)


def check_checkpoint(card: ModelCard) -> Checkpoint:
    """Checks names, configs and the headers of weight files. Raises CheckpointUnusable with the reason."""
    if card.family != FAMILY:
        raise CheckpointUnusable(f"model {card.model_id!r} is of family {card.family!r}; only {FAMILY!r} can be run")
    root = check_folder(card.path)
    classes = _read_index(root)
    configs = {name: _read_config(root, name, class_name) for name, class_name in classes.items()}
    unet = _join(configs["unet"], configs.get("motion_adapter"))
    layouts = _lay_out(unet, configs)
    _check_size(layouts.values())
    files = find_weights(root, {name: STEMS.get(name, STEM) for name in configs})
    tensors = {name: _read_tensors(root, name, files[name]) for name in configs}
    for name, layout in layouts.items():
        _compare(name, layout, tensors[name])
    tokenizer = read_tokenizer(root / "tokenizer")
    _check_fit(card, unet, configs, tokenizer)
    noise_table = read_noise_table(root / NOISE_NAME, card)
    read = (root / INDEX_NAME, root / NOISE_NAME, *(root / name / "config.json" for name in configs), *tokenizer.files)
    return Checkpoint(
        card=card,
        root=root,
        unet=_to_network("UNetMotionModel", unet, tensors["unet"] | tensors.get("motion_adapter", {})),
        vae=_to_network(classes["vae"], configs["vae"], tensors["vae"]),
        text_encoder=_to_network("CLIPTextModel", configs["text_encoder"], tensors["text_encoder"]),
        tokenizer=tokenizer,
        noise_table=noise_table,
        files=(*read, *(file for name in configs for file in files[name])),
    )


def check_weights(checkpoint: Checkpoint) -> None:
    """Reads every weight, which takes seconds for a large checkpoint. Raises CheckpointUnusable if one is not finite."""
    networks = (checkpoint.unet, checkpoint.vae, checkpoint.text_encoder)
    check_finite((tensor for network in networks for tensor in network.tensors.values()), checkpoint.root)


def hash_checkpoint(checkpoint: Checkpoint) -> str:
    """SHA-256 of the names and contents of all loaded files. The card is not one of them."""
    return hash_files(checkpoint.root, checkpoint.files)


def _read_index(root: Path) -> dict[str, str]:
    """The class of each network, from model_index.json. Raises CheckpointUnusable for classes that Promptreel does not load."""
    if not (root / INDEX_NAME).is_file():
        raise CheckpointUnusable(f"The checkpoint has no {INDEX_NAME}. Save it again in diffusers' layout, see docs/models.md.")
    index = read_object(root / INDEX_NAME, INDEX_NAME)
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise CheckpointUnusable(
            f"{INDEX_NAME} names the pipeline {shorten(repr(pipeline))}; Promptreel runs {' and '.join(PIPELINES)} only."
        )
    named = {key: value for key, value in index.items() if isinstance(value, list) and not key.startswith("_")}
    named = {key: value for key, value in named.items() if value != [None, None]}
    for component, value in named.items():
        _check_class(component, value)
    needed = [name for name in CLASSES if name != "motion_adapter" or named.get("unet", [""])[-1] != "UNetMotionModel"]
    for component in needed:
        if component not in named or not (root / component).is_dir():
            raise CheckpointUnusable(_missing(component))
    return {name: named[name][1] for name in needed if name in NETWORKS}


def _check_class(component: str, named: list[Any]) -> None:
    allowed = (CLASSES | UNUSED).get(component)
    if allowed is None or len(named) != 2 or re.fullmatch(allowed, ".".join(map(str, named)), re.ASCII) is None:
        raise CheckpointUnusable(
            f"{INDEX_NAME} gives {shorten(repr(component))} the class {shorten(repr(named))}, which Promptreel does not load. "
            "Use a Stable Diffusion 1.5 checkpoint with a motion adapter, see docs/models.md."
        )


def _missing(component: str) -> str:
    if component == "motion_adapter":
        # diffusers would silently use random motion modules.
        return (
            "The checkpoint has no motion adapter, so nothing would move as it should. Copy one into motion_adapter/ and add "
            f'"motion_adapter": ["diffusers", "MotionAdapter"] to {INDEX_NAME}.'
        )
    return f"The checkpoint has no {component}/, or {INDEX_NAME} does not name it. Save it again in diffusers' layout."


def _read_config(root: Path, component: str, class_name: str) -> Config:
    file, name = root / component / "config.json", f"{component}/config.json"
    if component != "text_encoder":  # its config has no _class_name; TextEncoder checks its model_type
        own = read_model(file, name, _Named).class_name
        if own != class_name:
            raise CheckpointUnusable(
                f"{name} is of the class {shorten(repr(own))}, but {INDEX_NAME} says {class_name!r}. Make the two agree."
            )
    return read_model(file, name, NETWORKS[component][class_name])


def _read_tensors(root: Path, component: str, files: Iterable[Path]) -> dict[str, StoredTensor]:
    """Tensors by their current names, without position ids, which only older files contain."""
    stored = read_tensors(files, root)
    tensors = {_new_name(component, name): tensor for name, tensor in stored.items()}
    if len(tensors) != len(stored):
        raise CheckpointUnusable(f"{component}/ holds a tensor twice, under its old and its new name. {AGAIN}")
    if component == "text_encoder":
        tensors.pop("embeddings.position_ids", None)  # just 0, 1, 2, ...
    check_dtypes(tensors, component)
    return tensors


def _new_name(component: str, name: str) -> str:
    if component == "text_encoder":
        return name.removeprefix("text_model.")
    if component == "vae":
        return _OLD_ATTENTION.sub(lambda found: found[1] + _NEW_ATTENTION[found[2]], name)
    return name


def _join(unet: Config, adapter: Config | None) -> MotionUNet:
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


def _lay_out(unet: MotionUNet, configs: Mapping[str, Config]) -> dict[str, Layout]:
    """The tensors that each component's files must contain."""
    layouts = {"unet": lay_out(unet), "vae": lay_out(configs["vae"]), "text_encoder": lay_out(configs["text_encoder"])}
    if "motion_adapter" in configs:
        whole = layouts["unet"]
        layouts["motion_adapter"] = Layout({name: shape for name, shape in whole.items() if MOTION in name})
        layouts["unet"] = Layout({name: shape for name, shape in whole.items() if MOTION not in name})
    return layouts


def _check_size(layouts: Iterable[Layout]) -> None:
    parameters = sum(math.prod(shape) for layout in layouts for shape in layout.values())
    if parameters > MAX_PARAMETERS:
        raise CheckpointUnusable(
            f"The configs ask for {parameters:,} parameters. Promptreel loads {MAX_PARAMETERS:,} at most: "
            "use a Stable Diffusion 1.5 checkpoint."
        )


def _compare(component: str, layout: Layout, tensors: Mapping[str, StoredTensor]) -> None:
    problems = []
    for verb, names in (("lacks", layout.keys() - tensors.keys()), ("should not hold", tensors.keys() - layout.keys())):
        if names:
            more = f" and {len(names) - 1} other tensors" if len(names) > 1 else ""
            problems.append(f"{verb} {shorten(min(names))}{more}")
    for name in sorted(layout.keys() & tensors.keys()):
        if tensors[name].shape != layout[name]:
            problems.append(f"has {name} in the shape {list(tensors[name].shape)} in place of {list(layout[name])}")
            break
    if problems:
        raise CheckpointUnusable(
            f"{component}/: its weights do not fit its config.json: it {'; it '.join(problems)}. "
            "Convert it to diffusers' layout, or copy the config that belongs to the weights."
        )


def _check_fit(card: ModelCard, unet: MotionUNet, configs: Mapping[str, Config], tokenizer: TokenizerParts) -> None:
    """Raises CheckpointUnusable if components, or the card, do not fit together."""
    text, latents = configs["text_encoder"], getattr(configs["vae"], "latent_channels", None)
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
