"""The gate for Wan checkpoints: folders in diffusers' layout, as the hub has them. See promptreel.models.gate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from promptreel.errors import CheckpointUnusable
from promptreel.models.card_fields import CARD_NAME
from promptreel.models.configs import Config
from promptreel.models.families import WAN
from promptreel.models.gate import Network, check_size, compare
from promptreel.models.index import INDEX_NAME, read_components
from promptreel.models.json_files import read_model, read_object, shorten
from promptreel.models.noise_table import NAME as NOISE_NAME
from promptreel.models.noise_table import NoiseTable
from promptreel.models.parts import STEM, Part, by_name, check_class, check_own_class
from promptreel.models.registry import ModelCard
from promptreel.models.safety import check_folder
from promptreel.models.wan.configs import NETWORKS, ImageEncoder, TextEncoder, Transformer, Vae
from promptreel.models.wan.layouts import lay_out
from promptreel.models.wan.tokenizer import UnigramParts, read_tokenizer
from promptreel.models.weights import StoredTensor, check_dtypes, find_weights, read_tensors

PIPELINES = ("WanPipeline", "WanImageToVideoPipeline")
CLASSES = {
    "transformer": r"diffusers\.WanTransformer3DModel",
    "transformer_2": r"diffusers\.WanTransformer3DModel",
    "vae": r"diffusers\.AutoencoderKLWan",
    "text_encoder": r"transformers\.UMT5EncoderModel",
    "tokenizer": r"transformers\.(T5Tokenizer(Fast)?|TokenizersBackend|PreTrainedTokenizerFast)",
    "scheduler": r"diffusers\.[A-Z][A-Za-z0-9]{0,99}Scheduler",
    "image_encoder": r"transformers\.CLIPVisionModel",
    "image_processor": r"transformers\.CLIPImageProcessor(Fast|Pil)?",
}
"""The classes that model_index.json may name, by component."""
OPTIONAL = frozenset({"transformer_2", "image_encoder", "image_processor"})
MAX_PARAMETERS = 45_000_000_000
"""The most parameters of all networks together. Wan 2.2's A14B has 35 billion."""
_STEMS = {"text_encoder": "model", "image_encoder": "model"}
_EMBEDDING = ("shared.weight", "encoder.embed_tokens.weight")


class _Index(BaseModel):
    """The keys of model_index.json that are no components."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)

    class_name: str = Field(alias="_class_name", max_length=100)
    boundary_ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    expand_timesteps: bool = False


@dataclass(frozen=True, kw_only=True)
class WanCheckpoint:
    """Everything that is loaded from a Wan checkpoint. `networks` by component: `transformer`, `vae`, `text_encoder`, maybe
    `transformer_2` and `image_encoder`.

    `boundary_ratio`: at this share of the trained timesteps and above, `transformer` denoises; below it, `transformer_2`.
    `expands_timesteps`: each token has a timestep of its own. `takes_picture`: the transformer sees a picture's latents
    beside its own.
    """

    networks: Mapping[str, Network]
    tokenizer: UnigramParts
    noise_table: Mapping[str, Any]
    boundary_ratio: float | None
    expands_timesteps: bool
    takes_picture: bool
    files: Mapping[str, Path]


def check_wan(card: ModelCard) -> WanCheckpoint:
    """Checks names, configs and the headers of weight files. Raises CheckpointUnusable with the reason."""
    checkpoint = read_wan(check_folder(card.path))
    vae = checkpoint.networks["vae"].arguments
    multiple = 2 * vae["scale_factor_spatial"]
    if WAN.size_multiple_of(card) != multiple:
        bases = [base for base, each in WAN.size_multiples.items() if base and each == multiple]
        what = f'Write "base": "{bases[0]}" into {CARD_NAME}.' if bases else "Promptreel knows no such model of Wan."
        raise CheckpointUnusable(f"This model makes sides that are multiples of {multiple}. {what}")
    return checkpoint


def read_wan(root: Path) -> WanCheckpoint:
    """Like `check_wan`, for a folder that passed `check_folder` and has no card."""
    index, components = _read_index(root)
    parts = _read_parts(root, components)
    _check_layouts(parts)
    tokenizer = read_tokenizer(root)
    takes_picture = _check_fit(index, parts, tokenizer)
    files = {INDEX_NAME: root / INDEX_NAME, NOISE_NAME: root / NOISE_NAME, **tokenizer.files}
    for part in parts.values():
        files |= part.files
    return WanCheckpoint(
        networks={
            name: Network(class_name=part.class_name, arguments=part.config.arguments, tensors=part.tensors)
            for name, part in parts.items()
        },
        tokenizer=tokenizer,
        noise_table=_read_noise_table(root / NOISE_NAME),
        boundary_ratio=index.boundary_ratio,
        expands_timesteps=index.expand_timesteps,
        takes_picture=takes_picture,
        files=files,
    )


def _read_index(root: Path) -> tuple[_Index, dict[str, str]]:
    """The index, and the class of each component."""
    index = read_model(root / INDEX_NAME, INDEX_NAME, _Index)
    if index.class_name not in PIPELINES:
        raise CheckpointUnusable(
            f"{INDEX_NAME} names the pipeline {shorten(repr(index.class_name))}; "
            f"of Wan, Promptreel runs {' and '.join(PIPELINES)}."
        )
    named = read_components(read_object(root / INDEX_NAME, INDEX_NAME))
    for component, value in named.items():
        check_class(component, value, CLASSES, "Use a Wan checkpoint as it was published")
    for component in CLASSES:
        if component == "image_processor" or (component in named and (root / component).is_dir()):
            continue  # image_processor may be missing: all pictures are prepared alike
        if component in named or component not in OPTIONAL:
            raise CheckpointUnusable(
                f"The checkpoint has no {component}/, or {INDEX_NAME} does not name it. Download it again, as it was published."
            )
    return index, {component: value[1] for component, value in named.items()}


def _read_parts(root: Path, components: Mapping[str, str]) -> dict[str, Part]:
    classes = {name: class_name for name, class_name in components.items() if class_name in NETWORKS}
    files = find_weights(root, {name: _STEMS.get(name, STEM) for name in classes})
    parts = {}
    for name, class_name in classes.items():
        config = _read_config(root, name, class_name)
        read = by_name(root, (root / name / "config.json", *files[name]))
        parts[name] = Part(class_name=class_name, config=config, tensors=_read_tensors(root, name, files[name]), files=read)
    if "image_encoder" in parts and getattr(parts["transformer"].config, "image_dim", None) is None:
        del parts["image_encoder"]  # nothing reads its tokens
    return parts


def _read_config(root: Path, component: str, class_name: str) -> Config:
    file, name = root / component / "config.json", f"{component}/config.json"
    if component not in _STEMS:  # configs of transformers name no class; their model_type is checked
        check_own_class(file, name, class_name)
    return read_model(file, name, NETWORKS[class_name])


def _read_tensors(root: Path, component: str, files: Iterable[Path]) -> dict[str, StoredTensor]:
    """Tensors by their current names."""
    tensors = read_tensors(files, root)
    if component.startswith("transformer"):
        tensors = {name: each for name, each in tensors.items() if "norm_added_q" not in name}  # unused by any Wan
    if component == "image_encoder":
        tensors = {name.removeprefix("vision_model."): tensor for name, tensor in tensors.items()}
        tensors.pop("embeddings.position_ids", None)  # just 0, 1, 2, ...
    if component == "text_encoder":
        embedding = next((tensors[name] for name in _EMBEDDING if name in tensors), None)
        tensors |= {} if embedding is None else dict.fromkeys(_EMBEDDING, embedding)
    check_dtypes(tensors, component)
    return tensors


def _check_layouts(parts: Mapping[str, Part]) -> None:
    layouts = {name: lay_out(part.config) for name, part in parts.items()}
    check_size(layouts.values(), MAX_PARAMETERS, "use one of Wan's own.")
    for name, layout in layouts.items():
        compare(name, layout, parts[name])


def _check_fit(index: _Index, parts: Mapping[str, Part], tokenizer: UnigramParts) -> bool:
    """Whether the transformer takes a picture's latents. Raises CheckpointUnusable if components do not fit together."""
    transformer, vae, text = (parts[name].config for name in ("transformer", "vae", "text_encoder"))
    assert isinstance(transformer, Transformer)
    assert isinstance(vae, Vae)
    assert isinstance(text, TextEncoder)
    takes_picture = transformer.in_channels == 2 * vae.z_dim + 4
    problem = None
    if transformer.out_channels != vae.z_dim:
        problem = f"the transformer makes latents of {transformer.out_channels} channels, but the VAE's have {vae.z_dim}"
    elif not takes_picture and transformer.in_channels != vae.z_dim:
        problem = f"the transformer takes {transformer.in_channels} channels; {vae.z_dim} or {2 * vae.z_dim + 4} fit this VAE"
    elif transformer.text_dim != text.d_model:
        problem = f"the transformer takes text of {transformer.text_dim} channels, but the text encoder's has {text.d_model}"
    elif tokenizer.tokens > text.vocab_size:
        problem = f"the tokenizer has {tokenizer.tokens} tokens, but the text encoder only {text.vocab_size}"
    elif index.expand_timesteps and takes_picture:
        problem = f"{INDEX_NAME} says expand_timesteps, which is for transformers that take no picture beside their latents"
    problem = problem or _misfit_of_experts(index, parts) or _misfit_of_image_encoder(transformer, parts)
    if problem is not None:
        raise CheckpointUnusable(
            f"The checkpoint's parts do not fit together: {problem}. Download it again, as it was published."
        )
    return takes_picture


def _misfit_of_experts(index: _Index, parts: Mapping[str, Part]) -> str | None:
    second = parts.get("transformer_2")
    if (second is None) != (index.boundary_ratio is None):
        return f"{INDEX_NAME} must name a transformer_2 and a boundary_ratio, or neither"
    if second is not None and second.config != parts["transformer"].config:
        return "transformer/ and transformer_2/ have different configs"
    return None


def _misfit_of_image_encoder(transformer: Transformer, parts: Mapping[str, Part]) -> str | None:
    if transformer.image_dim is None:
        return None
    encoder = parts.get("image_encoder")
    if encoder is None:
        return "the transformer reads a picture's tokens, and there is no image_encoder/"
    assert isinstance(encoder.config, ImageEncoder)
    if encoder.config.hidden_size != transformer.image_dim:
        own = encoder.config.hidden_size
        return f"the transformer reads pictures of {transformer.image_dim} channels, but image_encoder/ has {own}"
    return None


def _read_noise_table(file: Path) -> dict[str, Any]:
    table = read_model(file, NOISE_NAME, NoiseTable)
    if not table.is_flow:
        raise CheckpointUnusable(
            f"{NOISE_NAME} is not of a flow model, as all Wan models are: it needs use_flow_sigmas, or a FlowMatch scheduler. "
            "Copy the original file there."
        )
    return table.model_dump(by_alias=True, exclude_none=True)
