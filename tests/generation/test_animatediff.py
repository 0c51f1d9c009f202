"""Our loop gives what diffusers' AnimateDiffPipeline gives for the same checkpoint, prompt and noise."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from promptreel.errors import CheckpointUnusable
from promptreel.generation.engine import Engine
from promptreel.generation.families.animatediff import LoadedCheckpoint
from promptreel.generation.latent_previews import Previews
from promptreel.jobs.job import JobStage
from promptreel.jobs.params import VideoParams
from promptreel.models.registry import ModelRegistry
from tests.generation.checkpoints import TABLE, make_tiny_checkpoint
from tests.generation.conftest import CPU

PARAMS = VideoParams(
    model_id="tiny",
    prompt="a red cat",
    negative_prompt="blurry",
    width=32,
    height=24,
    num_frames=6,
    num_inference_steps=4,
    guidance_scale=5,
    seed=11,
)
# Schedulers with the options that our samplers pin.
SCHEDULERS: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": False},
    "EulerDiscreteScheduler": {"timestep_spacing": "trailing"},
    "EulerAncestralDiscreteScheduler": {"timestep_spacing": "trailing"},
    "DPMSolverMultistepScheduler": {"timestep_spacing": "linspace"},
    "UniPCMultistepScheduler": {"timestep_spacing": "linspace"},
}


def go_on(stage: JobStage, share: float) -> None:
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def engine(models: ModelRegistry) -> Engine:
    """One for this file: loading takes longer than a tiny clip."""
    return Engine(models, CPU)


@pytest.fixture(scope="module")
def pipeline(models: ModelRegistry) -> Any:
    """diffusers' pipeline from the same files, assembled as its documentation says."""
    tiny = models.get("tiny").path
    adapter = diffusers.MotionAdapter.from_pretrained(tiny / "motion_adapter")
    pipeline = diffusers.AnimateDiffPipeline(
        vae=diffusers.AutoencoderKL.from_pretrained(tiny / "vae").eval(),
        text_encoder=CLIPTextModel.from_pretrained(tiny / "text_encoder").eval(),
        tokenizer=CLIPTokenizer.from_pretrained(tiny / "tokenizer"),
        unet=diffusers.UNet2DConditionModel.from_pretrained(tiny / "unet"),
        motion_adapter=adapter,
        scheduler=diffusers.DDIMScheduler(),
    )
    pipeline.unet.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run_pipeline(pipeline: Any, params: VideoParams, *, output_type: str) -> Any:
    kind = getattr(diffusers, params.scheduler)
    prediction_type = "v_prediction" if params.model_id == "tiny-v" else "epsilon"
    pipeline.scheduler = kind(**TABLE, **SCHEDULERS[params.scheduler], prediction_type=prediction_type)
    return pipeline(
        prompt=params.prompt,
        negative_prompt=params.negative_prompt,
        num_frames=params.num_frames,
        width=params.width,
        height=params.height,
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance_scale,
        generator=torch.Generator().manual_seed(params.seed),
        output_type=output_type,
    ).frames


def no_previews(checkpoint: LoadedCheckpoint) -> Previews:
    return Previews(None, space=checkpoint.space, colors=lambda: checkpoint.colors, fps=8, seconds_apart=0)


@pytest.mark.parametrize(
    ("scheduler", "changed"),
    [
        *((scheduler, {}) for scheduler in SCHEDULERS),
        # How a prediction is read and guided depends on no scheduler; diffusers has v by two ways.
        ("DDIMScheduler", {"model_id": "tiny-v"}),
        ("EulerDiscreteScheduler", {"model_id": "tiny-v"}),
        ("UniPCMultistepScheduler", {"guidance_scale": 1.0}),
    ],
)
def test_latents_are_those_of_diffusers_pipeline(
    engine: Engine, pipeline: Any, scheduler: str, changed: dict[str, Any]
) -> None:
    params = replace(PARAMS, scheduler=scheduler, **changed)
    checkpoint = engine.load(params.model_id)
    with engine.batcher.seat() as seat:
        ours = engine._denoise(checkpoint, params, checkpoint.prepare(params), seat, go_on, no_previews(checkpoint))
    theirs = run_pipeline(pipeline, params, output_type="latent")

    assert ours.shape == theirs.shape == (1, 4, 6, 12, 16)
    assert float((ours - theirs).norm() / theirs.norm()) < 2e-6


def test_frames_are_those_of_diffusers_pipeline(engine: Engine, pipeline: Any) -> None:
    ours = engine.generate(PARAMS, go_on).clip
    theirs = run_pipeline(pipeline, PARAMS, output_type="np")[0]

    assert ours.frames.shape == (6, 24, 32, 3)
    assert ours.fps == PARAMS.fps
    assert ours.frames.std() > 1
    assert np.abs(ours.frames - theirs * 255).max() < 0.51  # rounded to whole numbers


def test_checkpoint_saved_as_motion_unet_loads_alike(engine: Engine, tmp_path: Path) -> None:
    """AnimateDiffPipeline.save_pretrained writes the UNet with its motion modules in one file."""
    saved = make_tiny_checkpoint(tmp_path / "tiny")
    engine.load("tiny").unet.save_pretrained(saved / "unet")
    index = (saved / "model_index.json").read_text().replace("UNet2DConditionModel", "UNetMotionModel")
    (saved / "model_index.json").write_text(index)
    shutil.rmtree(saved / "motion_adapter")  # it is in the UNet
    other = Engine(ModelRegistry(built_in=tmp_path, models_dir=tmp_path / "none"), CPU)

    assert np.array_equal(other.generate(PARAMS, go_on).clip.frames, engine.generate(PARAMS, go_on).clip.frames)


def test_motion_adapter_changes_the_video(engine: Engine, tmp_path: Path) -> None:
    """A loader could leave the motion modules out, or at random weights."""
    frames = engine.generate(PARAMS, go_on).clip.frames
    still = make_tiny_checkpoint(tmp_path / "tiny")
    adapter = diffusers.MotionAdapter.from_pretrained(still / "motion_adapter")
    for name, weights in adapter.named_parameters():
        if "proj_out" in name:
            torch.nn.init.zeros_(weights)
    adapter.save_pretrained(still / "motion_adapter")
    other = Engine(ModelRegistry(built_in=tmp_path, models_dir=tmp_path / "none"), CPU)

    assert not np.array_equal(other.generate(PARAMS, go_on).clip.frames, frames)


@pytest.mark.parametrize("text", ["a red cat", "", "A  Red, cat!", "x" * 75])
def test_embeddings_are_those_of_diffusers_pipeline(engine: Engine, pipeline: Any, text: str) -> None:
    theirs, _ = pipeline.encode_prompt(text, "cpu", 1, False)

    assert torch.equal(engine.load("tiny").encode_text(text), theirs)


@pytest.mark.parametrize("clip_skip", [0, 1, 2])
def test_embeddings_with_skipped_layers_are_those_of_diffusers_pipeline(engine: Engine, pipeline: Any, clip_skip: int) -> None:
    # diffusers looks for the final norm in `text_model`, which transformers 5 has removed.
    object.__setattr__(pipeline.text_encoder, "text_model", pipeline.text_encoder)
    theirs, _ = pipeline.encode_prompt("a red cat", "cpu", 1, False, clip_skip=clip_skip)

    assert torch.equal(engine.load("tiny").encode_text("a red cat", clip_skip), theirs)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    weights = make_tiny_checkpoint(tmp_path / "tiny") / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])

    with pytest.raises(CheckpointUnusable, match="damaged"):
        Engine(ModelRegistry(built_in=tmp_path, models_dir=tmp_path / "none"), CPU).load("tiny")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    config = make_tiny_checkpoint(tmp_path / "tiny") / "vae" / "config.json"
    config.write_text(config.read_text().replace('"latent_channels": 4', '"latent_channels": 8'))

    with pytest.raises(CheckpointUnusable, match=r"vae/: its weights do not fit its config\.json"):
        Engine(ModelRegistry(built_in=tmp_path, models_dir=tmp_path / "none"), CPU).load("tiny")


def test_noise_table_comes_from_the_card(tmp_path: Path) -> None:
    """AnimateDiff's adapters were trained on linear betas, which end at a sigma of 25.1; the scheduler's file ends at 14.6."""
    for schedule, sigma in (("scaled_linear", 14.6), ("linear", 25.1)):
        make_tiny_checkpoint(tmp_path / schedule, beta_schedule=schedule)
        space = Engine(ModelRegistry(built_in=tmp_path, models_dir=tmp_path / "none"), CPU).load(schedule).space

        assert float(space.sigmas[-1]) == pytest.approx(sigma, abs=0.05)


def test_noise_table_is_not_guessed(tmp_path: Path) -> None:
    make_tiny_checkpoint(tmp_path / "tiny", beta_schedule=None)

    with pytest.raises(CheckpointUnusable, match=r'Write into promptreel\.json "beta_schedule": "linear"'):
        Engine(ModelRegistry(built_in=tmp_path, models_dir=tmp_path / "none"), CPU).load("tiny")
