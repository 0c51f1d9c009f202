"""Models as their authors publish them give the frames of diffusers' own pipeline, without a file moved by hand."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import CLIPTokenizer

from promptreel.errors import CheckpointUnusable
from promptreel.generation.engine import Engine
from promptreel.generation.families.animatediff import LoadedCheckpoint
from promptreel.generation.loading import load_network, load_tokenizer
from promptreel.importing.gathering import find_local
from promptreel.jobs.import_params import ImportParams
from promptreel.jobs.params import VideoParams
from promptreel.models.gate import check_checkpoint, check_part
from promptreel.models.inspection import inspect
from promptreel.models.kinds import ModelKind
from promptreel.models.layouts import MOTION
from promptreel.models.registry import ModelCard, ModelRegistry
from promptreel.models.sd15.tokenizer import read_clip_tokenizer
from promptreel.models.stored_files import link_files
from tests.generation import original_files as original
from tests.generation.conftest import CPU
from tests.generation.test_animatediff import go_on, no_previews

PARAMS = VideoParams(
    model_id="checkpoint",
    prompt="a red cat, running",
    negative_prompt="blurry",
    width=32,
    height=24,
    num_frames=5,
    scheduler="DDIMScheduler",
    num_inference_steps=3,
    seed=5,
)
LINEAR = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear", "num_train_timesteps": 1000}


@dataclass(frozen=True)
class Made:
    """Latents [1, C, T, h, w], and frames [T, 3, h, w] between 0 and 1 that were not rounded."""

    latents: Tensor
    frames: Tensor


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    made = {
        "unet": original.make_unet(),
        "vae": original.make_vae(),
        "text_encoder": original.make_text_encoder(),
        "motion_adapter": original.make_adapter(),
    }
    for module in made.values():
        original.round_to_16_bits(module)
    return made


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return load_tokenizer(read_clip_tokenizer())


@pytest.fixture(scope="module")
def expected(parts: dict[str, Any], tokenizer: CLIPTokenizer) -> Made:
    """What diffusers' pipeline makes of the parts."""
    scheduler = diffusers.DDIMScheduler(**LINEAR, clip_sample=False, timestep_spacing="trailing", set_alpha_to_one=False)
    pipeline = diffusers.AnimateDiffPipeline(**parts, tokenizer=tokenizer, scheduler=scheduler)
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        module.eval()
    pipeline.set_progress_bar_config(disable=True)
    latents = pipeline(
        prompt=PARAMS.prompt,
        negative_prompt=PARAMS.negative_prompt,
        num_frames=PARAMS.num_frames,
        width=PARAMS.width,
        height=PARAMS.height,
        num_inference_steps=PARAMS.num_inference_steps,
        guidance_scale=PARAMS.guidance_scale,
        generator=torch.Generator().manual_seed(PARAMS.seed),
        output_type="latent",
    ).frames
    frames = to_pictures(pipeline.decode_latents(latents)[0].transpose(0, 1))
    assert frames.std() > 0.005
    return Made(latents, frames)


def to_pictures(decoded: Tensor) -> Tensor:
    return (decoded / 2 + 0.5).clamp(0, 1)


def whole(parts: dict[str, Any], *, level: str = "text_model.") -> dict[str, Tensor]:
    return {
        **original.original_unet(parts["unet"]),
        **original.original_vae(parts["vae"]),
        **original.original_text_encoder(parts["text_encoder"], level=level),
        **original.training_leftovers(),
    }


def save_folder(folder: Path, parts: dict[str, Any], tokenizer: CLIPTokenizer, **options: Any) -> Path:
    """A checkpoint for pictures in diffusers' layout. Its scheduler's file says `scaled_linear`, as all public ones do."""
    scheduler = diffusers.PNDMScheduler(**(LINEAR | {"beta_schedule": "scaled_linear"}), skip_prk_steps=True, steps_offset=1)
    pipeline = diffusers.StableDiffusionPipeline(
        unet=parts["unet"], vae=parts["vae"], text_encoder=parts["text_encoder"], tokenizer=tokenizer, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder, **options)
    return folder


def card(path: Path, kind: ModelKind = ModelKind.CHECKPOINT, **fields: Any) -> ModelCard:
    facts: dict[str, Any] = dict.fromkeys(("native_width", "native_height", "beta_schedule", "reference_seconds_per_unit"))
    facts |= {"description": "", "max_frames": 16, "fps": 8, "default_negative_prompt": "", "has_motion": False}
    facts |= {"trigger_words": (), "quality_words": (), "words": frozenset()}
    return ModelCard(model_id=kind.value, name="x", family="animatediff", path=path, kind=kind, **(facts | fields))


class Models(ModelRegistry):
    """Models that were imported, without a table: the command line's tests have one."""

    def __init__(self, *cards: ModelCard) -> None:
        super().__init__(built_in=Path("none"), models_dir=Path("none"))
        self.cards = {each.model_id: each for each in cards}

    def get(self, model_id: str) -> ModelCard:
        return self.cards[model_id]

    def list(self, *, tell: bool = True) -> list[ModelCard]:  # noqa: ARG002
        return list(self.cards.values())


def make(*cards: ModelCard) -> Made:
    engine = Engine(Models(*cards), CPU)
    model = engine.load(PARAMS.model_id)
    assert isinstance(model, LoadedCheckpoint)
    with engine.batcher.seat() as seat:
        latents = engine._denoise(model, PARAMS, model.prepare(PARAMS), seat, go_on, no_previews(model))
    with torch.inference_mode():
        decoded = model.vae.decode(latents[0].transpose(0, 1) / model.vae.config.scaling_factor).sample
    return Made(latents, to_pictures(decoded))


def is_equal(made: Made, expected: Made) -> bool:
    distance = float((made.latents - expected.latents).norm() / expected.latents.norm())
    return distance < 1e-5 and float((made.frames - expected.frames).abs().max()) < 1e-5


def take(folder: Path, expects: ModelKind, **given: Any) -> ModelCard:
    """Chooses a folder's files, inspects them and lays them out as an import does."""
    paths = find_local(folder)
    found = inspect(paths, ImportParams(model_id="x", source="x", card=given), reads_weights=True)
    assert found.kind is expects
    known = {name: found.card[name] for name in ("max_frames", "beta_schedule", "has_motion", "vae") if name in found.card}
    return card(link_files(paths, folder.with_name(f"{folder.name} as stored")), expects, base=found.base, **known)


def adapter_folder(folder: Path, parts: dict[str, Any]) -> ModelCard:
    parts["motion_adapter"].save_pretrained(folder)
    return take(folder, ModelKind.MOTION_ADAPTER)


def adapter_variant(folder: Path, parts: dict[str, Any]) -> ModelCard:
    copy.deepcopy(parts["motion_adapter"]).half().save_pretrained(folder, variant="fp16")
    return take(folder, ModelKind.MOTION_ADAPTER)


def adapter_file(folder: Path, parts: dict[str, Any], prefix: str = "") -> ModelCard:
    original.save(folder / "mm.safetensors", original.original_adapter(parts["motion_adapter"], prefix))
    return take(folder, ModelKind.MOTION_ADAPTER)


def adapter_without_config(folder: Path, parts: dict[str, Any]) -> ModelCard:
    original.save(folder / "lightning_4step_diffusers.safetensors", dict(parts["motion_adapter"].state_dict()))
    return take(folder, ModelKind.MOTION_ADAPTER)


def adapter_in_module(folder: Path, parts: dict[str, Any]) -> ModelCard:
    return adapter_file(folder, parts, "module.")


FILES = {
    "text_model": ("text_model.", None),
    "no text_model": ("", None),
    "float16": ("text_model.", torch.float16),
    "bfloat16": ("", torch.bfloat16),
}


@pytest.mark.slow
@pytest.mark.parametrize(("level", "dtype"), FILES.values(), ids=FILES)
def test_checkpoint_in_one_file_gives_the_pipelines_frames(
    parts: dict[str, Any], expected: Made, tmp_path: Path, level: str, dtype: torch.dtype | None
) -> None:
    original.save(tmp_path / "checkpoint" / "dream.safetensors", whole(parts, level=level), dtype)
    checkpoint = take(tmp_path / "checkpoint", ModelKind.CHECKPOINT)

    assert is_equal(make(checkpoint, adapter_folder(tmp_path / "adapter", parts)), expected)


def plain(folder: Path, parts: dict[str, Any], tokenizer: CLIPTokenizer) -> None:
    """As the repository of Stable Diffusion 1.5: with the same weights in one file, pickles, a safety checker and pictures."""
    save_folder(folder, parts, tokenizer)
    original.save(folder / "v1-5-pruned-emaonly.safetensors", whole(parts), torch.float16)
    original.save(folder / "safety_checker" / "model.safetensors", {"concept_embeds": torch.zeros(2, 2)})
    original.save(folder / "vae" / "diffusion_pytorch_model.non_ema.safetensors", {"x": torch.zeros(2)})
    for name in ("v1-5-pruned.ckpt", "unet/diffusion_pytorch_model.bin", "example.png", ".gitattributes", ".cache/x.lock"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not opened")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    (folder / "model_index.json").write_text(json.dumps(index))


def fp16(folder: Path, parts: dict[str, Any], tokenizer: CLIPTokenizer) -> None:
    save_folder(folder, {name: copy.deepcopy(part).half() for name, part in parts.items()}, tokenizer, variant="fp16")


def mixed(folder: Path, parts: dict[str, Any], tokenizer: CLIPTokenizer) -> None:
    fp16(folder, parts, tokenizer)
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    parts["vae"].save_pretrained(folder / "vae")


def in_shards(folder: Path, parts: dict[str, Any], tokenizer: CLIPTokenizer) -> None:
    save_folder(folder, parts, tokenizer, max_shard_size="2MB")
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").is_file()


def fp16_in_shards(folder: Path, parts: dict[str, Any], tokenizer: CLIPTokenizer) -> None:
    halved = {name: copy.deepcopy(part).half() for name, part in parts.items()}
    save_folder(folder, halved, tokenizer, max_shard_size="1MB", variant="fp16")
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors.index.fp16.json").is_file()


def old_tokenizer(folder: Path, parts: dict[str, Any], tokenizer: CLIPTokenizer) -> None:
    """As transformers 4 wrote it: two files, and a map of special tokens."""
    save_folder(folder, parts, tokenizer)
    clip = read_clip_tokenizer()
    (folder / "tokenizer" / "tokenizer.json").unlink()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(dict(clip.vocab)))
    merges = "\n".join(["#version: 0.2", *(" ".join(merge) for merge in clip.merges)])
    (folder / "tokenizer" / "merges.txt").write_text(merges, encoding="utf-8")
    (folder / "tokenizer" / "special_tokens_map.json").write_text(json.dumps(dict(clip.special_tokens)))
    (folder / "tokenizer" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77})
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lay_out", "adapter"),
    [
        (plain, adapter_folder),
        (fp16, adapter_variant),
        (mixed, adapter_file),
        (in_shards, adapter_in_module),
        (fp16_in_shards, adapter_without_config),
        (old_tokenizer, adapter_file),
    ],
)
def test_folder_and_adapter_of_each_form_give_the_pipelines_frames(
    parts: dict[str, Any],
    tokenizer: CLIPTokenizer,
    expected: Made,
    tmp_path: Path,
    lay_out: Callable[..., None],
    adapter: Callable[..., ModelCard],
) -> None:
    """On the adapter's noise table, whatever the folder's scheduler says. Each is read by itself: no form meets another."""
    lay_out(tmp_path / "checkpoint", parts, tokenizer)
    models = (take(tmp_path / "checkpoint", ModelKind.CHECKPOINT), adapter(tmp_path / "adapter", parts))

    assert models[0].base == models[1].base == "unet-32-64"
    assert is_equal(make(*models), expected)


@pytest.mark.slow
def test_card_may_give_another_noise_table(parts: dict[str, Any], expected: Made, tmp_path: Path) -> None:
    original.save(tmp_path / "checkpoint" / "dream.safetensors", whole(parts))
    original.save(tmp_path / "adapter" / "mm.safetensors", original.original_adapter(parts["motion_adapter"]))
    adapter = take(tmp_path / "adapter", ModelKind.MOTION_ADAPTER, beta_schedule="scaled_linear")

    assert not is_equal(make(take(tmp_path / "checkpoint", ModelKind.CHECKPOINT), adapter), expected)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["first_stage_model.", "", None], ids=["prefixed", "original", "diffusers"])
def test_vae_apart_is_used_in_place_of_the_checkpoints_own(
    parts: dict[str, Any], expected: Made, tmp_path: Path, prefix: str | None
) -> None:
    without = {name: tensor for name, tensor in whole(parts).items() if not name.startswith("first_stage_model.")}
    original.save(tmp_path / "checkpoint" / "dream.safetensors", without)
    if prefix is None:
        parts["vae"].save_pretrained(tmp_path / "vae")
    else:
        original.save(tmp_path / "vae" / "vae-ft-mse.safetensors", original.original_vae(parts["vae"], prefix))
    checkpoint = take(tmp_path / "checkpoint", ModelKind.CHECKPOINT, vae="vae")
    vae = take(tmp_path / "vae", ModelKind.VAE)
    adapter = adapter_folder(tmp_path / "adapter", parts)

    with pytest.raises(CheckpointUnusable, match="has no VAE"):
        check_checkpoint(checkpoint, adapter)
    assert is_equal(make(checkpoint, adapter, vae), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "channels"), [(1, (32, 64)), (2, (32, 64, 64))])
def test_single_file_is_read_as_diffusers_reads_it(
    parts: dict[str, Any], tokenizer: CLIPTokenizer, tmp_path: Path, layers: int, channels: tuple[int, ...]
) -> None:
    """Each tensor has the bits that diffusers' own conversion gives it."""
    all_parts = {**parts, "unet": original.make_unet(layers, channels)}
    path = original.save(tmp_path / "one" / "x.safetensors", whole(all_parts))
    save_folder(tmp_path / "config", all_parts, tokenizer)
    theirs = diffusers.StableDiffusionPipeline.from_single_file(path, config=str(tmp_path / "config"), local_files_only=True)
    original.make_adapter(layers=layers, channels=channels).save_pretrained(tmp_path / "adapter")
    found = check_checkpoint(take(path.parent, ModelKind.CHECKPOINT), take(tmp_path / "adapter", ModelKind.MOTION_ADAPTER))

    for network, module in ((found.unet, theirs.unet), (found.vae, theirs.vae), (found.text_encoder, theirs.text_encoder)):
        read = {name: tensor for name, tensor in load_network(network, CPU).state_dict().items() if MOTION not in name}
        assert read.keys() == module.state_dict().keys()
        assert [name for name, tensor in module.state_dict().items() if not torch.equal(read[name], tensor)] == []
    for name, value in {"block_out_channels": channels, "layers_per_block": layers, "num_attention_heads": 8}.items():
        given = found.unet.arguments[name]
        assert given in {value, (value,) * len(channels)} if isinstance(value, int) else given == value


@pytest.mark.parametrize("mid_block", [True, False])
def test_adapter_is_read_as_diffusers_reads_it(tmp_path: Path, mid_block: bool) -> None:
    adapter = original.make_adapter(mid_block=mid_block)
    path = original.save(tmp_path / "adapter" / "mm.safetensors", original.original_adapter(adapter))
    adapter.save_config(tmp_path / "config")
    theirs = diffusers.MotionAdapter.from_single_file(path, config=str(tmp_path / "config"), local_files_only=True)
    read = check_part(path.parent, ModelKind.MOTION_ADAPTER.value)
    with safe_open(path, framework="pt") as content:
        tensors = {name: content.get_tensor(stored.name) for name, stored in read.tensors.items()}

    assert tensors.keys() == theirs.state_dict().keys()
    assert [name for name, tensor in theirs.state_dict().items() if not torch.equal(tensors[name], tensor)] == []
    told = {name: read.config.arguments[name] for name in ("use_motion_mid_block", "motion_max_seq_length")}
    assert told == {name: theirs.config[name] for name in told}


def test_tokenizer_of_single_files_is_clips_own(tokenizer: CLIPTokenizer) -> None:
    """The numbers are those that CLIP's documentation and many issues show for this prompt."""
    ids = tokenizer("a photo of an astronaut riding a horse on mars").input_ids

    assert ids == [49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496, 49407]
    assert len(tokenizer) == 49_408
