"""Models as their authors publish them give the frames of diffusers' own pipeline, without a file moved by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from promptreel.errors import CheckpointUnusable
from promptreel.generation.engine import Engine
from promptreel.generation.loading import load_tokenizer
from promptreel.jobs.import_params import ImportParams
from promptreel.jobs.params import VideoParams
from promptreel.models.gate import check_checkpoint
from promptreel.models.inspection import inspect
from promptreel.models.kinds import ModelKind
from promptreel.models.registry import ModelCard, ModelRegistry
from promptreel.models.sd15.tokenizer import read_clip_tokenizer
from tests.generation import original_files as original
from tests.generation.conftest import CPU
from tests.generation.test_animatediff import go_on

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


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return {
        "unet": original.make_unet(),
        "vae": original.make_vae(),
        "text_encoder": original.make_text_encoder(),
        "motion_adapter": original.make_adapter(),
    }


@pytest.fixture(scope="module")
def tokenizer() -> CLIPTokenizer:
    return load_tokenizer(read_clip_tokenizer())


@pytest.fixture(scope="module")
def expected(parts: dict[str, Any], tokenizer: CLIPTokenizer) -> np.ndarray:
    pipeline = diffusers.AnimateDiffPipeline(
        **parts,
        tokenizer=tokenizer,
        scheduler=diffusers.DDIMScheduler(**LINEAR, clip_sample=False, timestep_spacing="trailing"),
    )
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        module.eval()
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        prompt=PARAMS.prompt,
        negative_prompt=PARAMS.negative_prompt,
        num_frames=PARAMS.num_frames,
        width=PARAMS.width,
        height=PARAMS.height,
        num_inference_steps=PARAMS.num_inference_steps,
        guidance_scale=PARAMS.guidance_scale,
        generator=torch.Generator().manual_seed(PARAMS.seed),
        output_type="np",
    ).frames[0]
    assert made.std() > 0.005
    return made * 255


def whole(parts: dict[str, Any], *, level: str = "text_model.") -> dict[str, Tensor]:
    return {
        **original.original_unet(parts["unet"]),
        **original.original_vae(parts["vae"]),
        **original.original_text_encoder(parts["text_encoder"], level=level),
        **original.training_leftovers(),
    }


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


def generate(*cards: ModelCard) -> np.ndarray:
    return Engine(Models(*cards), CPU).generate(PARAMS, go_on).clip.frames


def is_near(frames: np.ndarray, expected: np.ndarray) -> bool:
    """Whether they differ by no more than rounding to whole numbers, and what three steps make of the last bits."""
    return bool(np.abs(frames - expected).max() < 0.6)


def take(folder: Path, expects: ModelKind) -> ModelCard:
    """Inspects a folder's files as an import does."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    found = inspect(paths, ImportParams(model_id="x", source="x"), reads_weights=True)
    assert found.kind is expects
    known = {name: found.card[name] for name in ("max_frames", "beta_schedule", "has_motion") if name in found.card}
    return card(folder, expects, base=found.base, **known)


def adapter_folder(folder: Path, parts: dict[str, Any]) -> ModelCard:
    parts["motion_adapter"].save_pretrained(folder)
    return take(folder, ModelKind.MOTION_ADAPTER)


def adapter_file(folder: Path, parts: dict[str, Any], prefix: str = "") -> ModelCard:
    original.save(folder / "mm.safetensors", original.original_adapter(parts["motion_adapter"], prefix))
    return take(folder, ModelKind.MOTION_ADAPTER)


def adapter_without_config(folder: Path, parts: dict[str, Any]) -> ModelCard:
    original.save(folder / "lightning_4step_diffusers.safetensors", dict(parts["motion_adapter"].state_dict()))
    return take(folder, ModelKind.MOTION_ADAPTER)


ADAPTERS = [
    adapter_folder,
    adapter_file,
    lambda folder, parts: adapter_file(folder, parts, "module."),
    adapter_without_config,
]


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ADAPTERS, ids=["folder", "original", "module", "no-config"])
@pytest.mark.parametrize("level", ["text_model.", ""], ids=["four", "five"])
def test_checkpoint_in_one_file_gives_the_pipelines_frames(
    parts: dict[str, Any], expected: np.ndarray, tmp_path: Path, adapter: Callable[..., ModelCard], level: str
) -> None:
    original.save(tmp_path / "checkpoint" / "dream.safetensors", whole(parts, level=level))
    models = (take(tmp_path / "checkpoint", ModelKind.CHECKPOINT), adapter(tmp_path / "adapter", parts))

    assert models[0].base == models[1].base == "unet-32-64"
    assert is_near(generate(*models), expected)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["first_stage_model.", "", None], ids=["prefixed", "original", "diffusers"])
def test_vae_apart_is_used_in_place_of_the_checkpoints_own(
    parts: dict[str, Any], expected: np.ndarray, tmp_path: Path, prefix: str | None
) -> None:
    without = {name: tensor for name, tensor in whole(parts).items() if not name.startswith("first_stage_model.")}
    original.save(tmp_path / "checkpoint" / "dream.safetensors", without)
    if prefix is None:
        parts["vae"].save_pretrained(tmp_path / "vae")
    else:
        original.save(tmp_path / "vae" / "vae-ft-mse.safetensors", original.original_vae(parts["vae"], prefix))
    checkpoint = take(tmp_path / "checkpoint", ModelKind.CHECKPOINT)
    vae = take(tmp_path / "vae", ModelKind.VAE)
    adapter = adapter_folder(tmp_path / "adapter", parts)

    with pytest.raises(CheckpointUnusable, match="has no VAE"):
        check_checkpoint(checkpoint, adapter)
    found = check_checkpoint(checkpoint, adapter, vae)
    assert found.noise_table["beta_schedule"] == "linear"
    models = Models(card(checkpoint.path, vae="vae"), adapter, vae)
    assert is_near(Engine(models, CPU).generate(PARAMS, go_on).clip.frames, expected)


@pytest.mark.slow
def test_table_is_the_adapters_whatever_the_checkpoints_scheduler_says(
    parts: dict[str, Any], tokenizer: CLIPTokenizer, expected: np.ndarray, tmp_path: Path
) -> None:
    """A folder of pictures' checkpoint says scaled_linear, as all public ones do."""
    scheduler = diffusers.PNDMScheduler(**(LINEAR | {"beta_schedule": "scaled_linear"}), skip_prk_steps=True, steps_offset=1)
    pipeline = diffusers.StableDiffusionPipeline(
        unet=parts["unet"], vae=parts["vae"], text_encoder=parts["text_encoder"], tokenizer=tokenizer, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(tmp_path / "checkpoint")
    models = (take(tmp_path / "checkpoint", ModelKind.CHECKPOINT), adapter_file(tmp_path / "adapter", parts))

    assert is_near(generate(*models), expected)
    other = (models[0], card(models[1].path, ModelKind.MOTION_ADAPTER, beta_schedule="scaled_linear"))
    assert not is_near(generate(*other), expected)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [1, 2])
def test_single_file_is_read_as_diffusers_reads_it(
    parts: dict[str, Any], tokenizer: CLIPTokenizer, tmp_path: Path, layers: int
) -> None:
    unet = original.make_unet(layers)
    path = original.save(tmp_path / "one" / "x.safetensors", whole({**parts, "unet": unet}))
    pipeline = diffusers.StableDiffusionPipeline(
        unet=unet, vae=parts["vae"], text_encoder=parts["text_encoder"], tokenizer=tokenizer, safety_checker=None,
        scheduler=diffusers.DDIMScheduler(), feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(tmp_path / "config")
    theirs = diffusers.StableDiffusionPipeline.from_single_file(path, config=str(tmp_path / "config"), local_files_only=True)
    adapter = original.make_adapter(layers=layers)
    adapter.save_pretrained(tmp_path / "adapter")
    found = check_checkpoint(take(path.parent, ModelKind.CHECKPOINT), take(tmp_path / "adapter", ModelKind.MOTION_ADAPTER))

    for network, module in ((found.unet, theirs.unet), (found.vae, theirs.vae), (found.text_encoder, theirs.text_encoder)):
        shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        assert shapes == {name: stored.shape for name, stored in network.tensors.items() if "motion_modules" not in name}
    for name, value in {"block_out_channels": (32, 64), "layers_per_block": layers, "num_attention_heads": 8}.items():
        given = found.unet.arguments[name]
        assert given in {value, (value,) * 2} if isinstance(value, int) else given == value


def test_adapter_is_read_as_diffusers_reads_it(tmp_path: Path) -> None:
    for mid_block in (True, False):
        adapter = original.make_adapter(mid_block=mid_block)
        folder = tmp_path / str(mid_block)
        path = original.save(folder / "mm.safetensors", original.original_adapter(adapter))
        adapter.save_config(tmp_path / "config")
        theirs = diffusers.MotionAdapter.from_single_file(path, config=str(tmp_path / "config"), local_files_only=True)
        found = take(folder, ModelKind.MOTION_ADAPTER)

        assert found.max_frames == 16
        assert found.beta_schedule == "linear"
        assert theirs.config.use_motion_mid_block is mid_block


def test_tokenizer_of_single_files_is_clips_own(tokenizer: CLIPTokenizer) -> None:
    """The numbers are those that CLIP's documentation and many issues show for this prompt."""
    ids = tokenizer("a photo of an astronaut riding a horse on mars").input_ids

    assert ids == [49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496, 49407]
    assert len(tokenizer) == 49_408
