"""The parts of models as their authors published them: each network's class, config and tensors. Only headers are read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from promptreel.errors import CheckpointUnusable
from promptreel.models import original_layout as original
from promptreel.models.configs import NETWORKS, Config
from promptreel.models.index import INDEX_NAME, read_components
from promptreel.models.json_files import read_model, read_object, shorten
from promptreel.models.noise_table import NAME as NOISE_NAME
from promptreel.models.sd15.tokenizer import read_clip_tokenizer
from promptreel.models.tokenizers import TokenizerParts, read_tokenizer
from promptreel.models.weights import AGAIN, StoredTensor, check_dtypes, find_weights, read_header, read_metadata, read_tensors

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
"""The names of weight files, without suffix, by component."""

# Old and new names of the parts of a VAE's attention in diffusers.
_OLD_ATTENTION = re.compile(r"(\.mid_block\.attentions\.0\.)(query|key|value|proj_attn)(?=\.)")
_NEW_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A network's class, config and tensors. `files`: what they were read from, by the author's name."""

    class_name: str
    config: Config
    tensors: Mapping[str, StoredTensor]
    files: Mapping[str, Path]


@dataclass(frozen=True, kw_only=True)
class ImageParts:
    """An image checkpoint. `networks` by component; with `motion_adapter` if it has one of its own. `noise_file`: None if the
    checkpoint has no file that says how it was trained. `predicts_v`: whether it says without one that it predicts v.
    """

    networks: Mapping[str, Part]
    tokenizer: TokenizerParts
    noise_file: Path | None
    files: Mapping[str, Path]
    predicts_v: bool = False


class _Named(BaseModel):
    """The key that each config.json of diffusers has. Those of transformers lack it."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    class_name: str = Field(alias="_class_name", max_length=100)


def read_image_parts(root: Path) -> ImageParts:
    """A checkpoint's folder in diffusers' layout, or with one file in the original layout. Raises CheckpointUnusable."""
    if (root / INDEX_NAME).is_file():
        return _read_pipeline(root)
    return _read_single(root, _find_one(root))


def _read_pipeline(root: Path) -> ImageParts:
    classes = _read_index(root)
    configs = {name: _read_config(root, name, class_name) for name, class_name in classes.items()}
    files = find_weights(root, {name: STEMS.get(name, STEM) for name in configs})
    networks = {
        name: Part(
            class_name=classes[name],
            config=configs[name],
            tensors=_read_tensors(root, name, files[name]),
            files=by_name(root, (root / name / "config.json", *files[name])),
        )
        for name in configs
    }
    tokenizer = read_tokenizer(root / "tokenizer")
    read = by_name(root, (root / INDEX_NAME, root / NOISE_NAME, *tokenizer.files))
    return ImageParts(networks=networks, tokenizer=tokenizer, noise_file=root / NOISE_NAME, files=read)


def _read_single(root: Path, file: Path) -> ImageParts:
    """A checkpoint in one file, as CompVis published Stable Diffusion and as most tools save it."""
    name = file.relative_to(root).as_posix()
    tensors = read_header(file, name)
    halves = {prefix: original.take(tensors, prefix) for prefix in (original.UNET, original.VAE, original.TEXT_ENCODER)}
    lacking = {original.UNET: "UNet", original.TEXT_ENCODER: "text encoder"}
    for prefix, what in lacking.items():
        if not halves[prefix]:
            raise CheckpointUnusable(f"{name} has no {what}: it is only a part of a checkpoint. Take the whole one.")
    readers = {"unet": (original.read_unet, original.UNET), "text_encoder": (original.read_text_encoder, original.TEXT_ENCODER)}
    if halves[original.VAE]:  # else it needs one that is apart
        readers["vae"] = (original.read_vae, original.VAE)
    networks = {}
    for component, (read, prefix) in readers.items():
        found = read(halves[prefix], name)
        check_dtypes(found.tensors, name)
        networks[component] = _to_part(found, {name: file})
    predicts_v = original.predicts_v(tensors, read_metadata(file, name))
    return ImageParts(networks=networks, tokenizer=read_clip_tokenizer(), noise_file=None, files={}, predicts_v=predicts_v)


def read_part(root: Path, component: str) -> Part:
    """A motion adapter or a VAE that is a model of its own: a config and weights, or one file. Raises CheckpointUnusable."""
    configs = sorted(root.rglob("config.json"))
    if configs:
        folder = configs[0].parent
        config = _read_named(folder / "config.json", f"{component}/config.json", NETWORKS[component])
        files = _weights_in(folder, root)
        tensors = _rename_tensors(read_tensors(files, root), component)
        read = by_name(root, (folder / "config.json", *files))
        return Part(class_name=_name_class(config), config=config, tensors=tensors, files=read)
    file = _find_one(root)
    name = file.relative_to(root).as_posix()
    tensors = read_header(file, name)
    if component == "motion_adapter":
        found = original.read_motion_adapter(tensors, name)
    else:
        found = original.read_vae(_rename_tensors(_take_vae(tensors), component), name)
    check_dtypes(found.tensors, name)
    return _to_part(found, {name: file})


def _take_vae(tensors: Mapping[str, StoredTensor]) -> Mapping[str, StoredTensor]:
    """Those of a VAE in one file, with the prefix that it has in a checkpoint or without."""
    return original.take(tensors, original.VAE) or original.take(tensors, "")


def _to_part(found: original.Found, files: Mapping[str, Path]) -> Part:
    return Part(class_name=_name_class(found.config), config=found.config, tensors=found.tensors, files=files)


def _name_class(config: Config) -> str:
    """The class of diffusers or transformers that a config is of."""
    return next(name for classes in NETWORKS.values() for name, kind in classes.items() if kind is type(config))


def _weights_in(folder: Path, root: Path) -> tuple[Path, ...]:
    if folder != root:
        return find_weights(folder.parent, {folder.name: STEM})[folder.name]
    for stem in (STEM, f"{STEM}.fp16"):
        if (folder / f"{stem}.safetensors").is_file():
            return (folder / f"{stem}.safetensors",)
    return (_find_one(root),)


def _find_one(root: Path) -> Path:
    files = sorted(root.rglob("*.safetensors"))
    if len(files) != 1:
        raise CheckpointUnusable(
            f"The checkpoint has no {INDEX_NAME}, and {len(files) or 'no'} .safetensors files, of which one is expected. "
            "Save it again in diffusers' layout, or as one file; see docs/models.md."
        )
    return files[0]


def by_name(root: Path, files: Iterable[Path]) -> dict[str, Path]:
    """The files by their authors' names."""
    return {file.relative_to(root).as_posix(): file for file in files}


def _read_index(root: Path) -> dict[str, str]:
    """The class of each network. model_index.json and the network's own config must agree, and name nothing else."""
    index = read_object(root / INDEX_NAME, INDEX_NAME)
    pipeline = index.get("_class_name")
    if pipeline not in PIPELINES:
        raise CheckpointUnusable(
            f"{INDEX_NAME} names the pipeline {shorten(repr(pipeline))}; Promptreel runs {' and '.join(PIPELINES)} only."
        )
    named = read_components(index)
    for component, value in named.items():
        check_class(component, value, CLASSES | UNUSED, "Use a Stable Diffusion 1.5 checkpoint with a motion adapter")
    has_adapter = (
        "motion_adapter" in named and (root / "motion_adapter").is_dir() and named.get("unet", [""])[-1] != "UNetMotionModel"
    )
    needed = [name for name in CLASSES if name != "motion_adapter" or has_adapter]
    for component in needed:
        if component not in named or not (root / component).is_dir():
            raise CheckpointUnusable(
                f"The checkpoint has no {component}/, or {INDEX_NAME} does not name it. Save it again in diffusers' layout."
            )
    return {name: named[name][1] for name in needed if name in NETWORKS}


def check_class(component: str, named: list[Any], classes: Mapping[str, str], advice: str) -> None:
    """Raises CheckpointUnusable if model_index.json gives the component a class that is not one of `classes`, patterns by
    component.
    """
    allowed = classes.get(component)
    if allowed is None or len(named) != 2 or re.fullmatch(allowed, ".".join(map(str, named)), re.ASCII) is None:
        raise CheckpointUnusable(
            f"{INDEX_NAME} gives {shorten(repr(component))} the class {shorten(repr(named))}, which Promptreel does not load. "
            f"{advice}, see docs/models.md."
        )


def _read_config(root: Path, component: str, class_name: str) -> Config:
    file, name = root / component / "config.json", f"{component}/config.json"
    if component != "text_encoder":  # its config has no _class_name; TextEncoder checks its model_type
        check_own_class(file, name, class_name)
    return read_model(file, name, NETWORKS[component][class_name])


def check_own_class(file: Path, name: str, class_name: str) -> None:
    """Raises CheckpointUnusable if a config.json of diffusers is of another class than the index says."""
    own = read_model(file, name, _Named).class_name
    if own != class_name:
        raise CheckpointUnusable(
            f"{name} is of the class {shorten(repr(own))}, but {INDEX_NAME} says {class_name!r}. Make the two agree."
        )


def _read_named(file: Path, name: str, classes: Mapping[str, type[Config]]) -> Config:
    own = read_model(file, name, _Named).class_name
    if own not in classes:
        raise CheckpointUnusable(f"{name} is of the class {shorten(repr(own))}; Promptreel loads {', '.join(classes)} here.")
    return read_model(file, name, classes[own])


def _read_tensors(root: Path, component: str, files: Iterable[Path]) -> dict[str, StoredTensor]:
    return _rename_tensors(read_tensors(files, root), component)


def _rename_tensors(stored: Mapping[str, StoredTensor], component: str) -> dict[str, StoredTensor]:
    """Tensors by their current names, without position ids, which only older files contain."""
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
