"""Wan against diffusers' own pipelines, loaded from the same folders, on the same noise levels."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from transformers import CLIPVisionModel, T5TokenizerFast, UMT5EncoderModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from promptreel.errors import GenerationFailed
from promptreel.generation.engine import Engine
from promptreel.generation.families.wan import LoadedWan
from promptreel.generation.latent_previews import Previews
from promptreel.jobs.job import JobStage
from promptreel.jobs.params import SCHEDULERS, VideoParams
from promptreel.media import Clip
from promptreel.models.registry import ModelRegistry
from tests.generation.conftest import CPU
from tests.generation.wan_checkpoints import KINDS, make_tiny_wan

PARAMS = VideoParams(
    model_id="t2v",
    prompt="a red  cat &amp; \u65e5\u672c",
    negative_prompt="blurry",
    width=64,
    height=32,
    num_frames=9,
    num_inference_steps=4,
    guidance_scale=5,
    scheduler="UniPCMultistepScheduler",
    seed=11,
)
PICTURE = torch.randint(0, 256, (1, 32, 64, 3), generator=torch.Generator().manual_seed(5), dtype=torch.uint8).numpy()
STILL = Clip(np.repeat(PICTURE, PARAMS.num_frames, axis=0), 16)
# The model, and whether it is given a picture.
CASES = {
    "t2v": ("t2v", False),
    "ti2v of text": ("ti2v", False),
    "ti2v of a picture": ("ti2v", True),
    "t2v-a14b": ("t2v-a14b", False),
    "i2v": ("i2v", True),
    "i2v-a14b": ("i2v-a14b", True),
}


class EulerOn(diffusers.FlowMatchEulerDiscreteScheduler):
    """diffusers' own, at given times from 1 (noise) to 0."""

    times: Tensor

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        assert num_inference_steps == len(self.times)
        super().set_timesteps(sigmas=self.times.tolist(), device=device)


class UniPCOn(diffusers.UniPCMultistepScheduler):
    """Wan's own scheduler, at given times."""

    times: Tensor

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        assert num_inference_steps == len(self.times)
        super().set_timesteps(sigmas=self.times.numpy().astype(np.float64), device=device)
        self.timesteps = 1000 * self.times  # diffusers rounds these, and so asks the network about another level


THEIRS: dict[str, Any] = {
    "EulerDiscreteScheduler": EulerOn,
    "UniPCMultistepScheduler": lambda: UniPCOn(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0),
}


def go_on(stage: JobStage, share: float) -> None:
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def wans(tmp_path_factory: pytest.TempPathFactory) -> ModelRegistry:
    """One of each kind, and `t2v-by-size`, whose card lets the shift go by size."""
    root = tmp_path_factory.mktemp("wans")
    for kind in KINDS:
        make_tiny_wan(root / kind, kind, **({"low_noise_guidance": 3.0} if kind == "t2v-a14b" else {}))
    make_tiny_wan(root / "t2v-by-size", flow_shift="by_size")
    return ModelRegistry(built_in=root, models_dir=root / "none")


@pytest.fixture(scope="module")
def engine(wans: ModelRegistry) -> Engine:
    return Engine(wans, CPU, model_memory=1 << 30)


def load(engine: Engine, model_id: str) -> LoadedWan:
    model = engine.load(model_id)
    assert isinstance(model, LoadedWan)
    return model


def load_pipeline(model: LoadedWan, *, of_picture: bool) -> Any:
    """diffusers' own, from the checkpoint's files."""
    folder = model.card.path
    index = json.loads((folder / "model_index.json").read_text())
    parts: dict[str, Any] = {
        "vae": diffusers.AutoencoderKLWan.from_pretrained(folder / "vae").eval(),
        "text_encoder": UMT5EncoderModel.from_pretrained(folder / "text_encoder").eval(),
        "tokenizer": T5TokenizerFast.from_pretrained(folder / "tokenizer"),
        "boundary_ratio": index.get("boundary_ratio"),
        "expand_timesteps": index.get("expand_timesteps", False),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(),
    }
    for name in ("transformer", "transformer_2"):
        if index[name] != [None, None]:  # from_pretrained needs another package for this class
            parts[name] = diffusers.WanTransformer3DModel.from_config(diffusers.WanTransformer3DModel.load_config(folder / name))
            parts[name].load_state_dict(load_file(folder / name / "diffusion_pytorch_model.safetensors"))
            parts[name].eval()
    if index["image_encoder"] != [None, None]:
        parts["image_encoder"] = CLIPVisionModel.from_pretrained(folder / "image_encoder").eval()
        parts["image_processor"] = CLIPImageProcessorPil.from_pretrained(folder / "image_processor")
    pipeline = (diffusers.WanImageToVideoPipeline if of_picture else diffusers.WanPipeline)(**parts)
    pipeline._get_t5_prompt_embeds = partial(diffusers.WanPipeline._get_t5_prompt_embeds, pipeline)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run_pipeline(engine: Engine, params: VideoParams, *, of_picture: bool, output_type: str, **more: Any) -> Any:
    """What diffusers makes of the request, at the times of our samplers."""
    model = load(engine, params.model_id).fit_to(params)
    init = model.encode_init(torch.from_numpy(STILL.frames)) if of_picture else None
    sampler = engine.samplers[params.scheduler](model.space, model.prepare(params, init).start)
    call = next(sampler)
    latents, times = model.space.to_network(call.latents, call.timestep)[0], []
    try:
        while True:
            times.append(model.space.to_network(call.latents, call.timestep)[1] / 1000)
            call = sampler.send(torch.zeros_like(call.latents))
    except StopIteration:
        pass
    pipeline = load_pipeline(model, of_picture=of_picture)
    pipeline.scheduler = THEIRS[params.scheduler]()
    pipeline.scheduler.times = torch.stack(times)
    # WanImageToVideoPipeline cleans prompts with a package that WanPipeline does without.
    embeddings = diffusers.WanPipeline.encode_prompt(
        pipeline, params.prompt, params.negative_prompt, max_sequence_length=512, device="cpu"
    )
    return pipeline(
        **({"image": Image.fromarray(PICTURE[0])} if of_picture else {}),
        prompt_embeds=embeddings[0],
        negative_prompt_embeds=embeddings[1],
        num_frames=params.num_frames,
        width=params.width,
        height=params.height,
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance_scale,
        latents=latents,
        output_type=output_type,
        **more,
    ).frames


def make_latents(engine: Engine, params: VideoParams, init: Clip | None = None) -> Tensor:
    model = load(engine, params.model_id).fit_to(params)
    prepared = model.prepare(params, model.encode_init(torch.from_numpy(init.frames)) if init else None)
    previews = Previews(None, space=model.space, colors=lambda: model.colors, fps=8, seconds_apart=0)
    with engine.batcher.seat() as seat:
        return engine._denoise(model, params, prepared, seat, go_on, previews)


def distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("scheduler", THEIRS)
@pytest.mark.parametrize("case", CASES)
def test_latents_are_those_of_diffusers_pipeline(engine: Engine, case: str, scheduler: str) -> None:
    model_id, of_picture = CASES[case]
    params = replace(PARAMS, model_id=model_id, scheduler=scheduler)
    more = {"guidance_scale_2": 3.0} if model_id == "t2v-a14b" else {}
    theirs = run_pipeline(engine, params, of_picture=of_picture, output_type="latent", **more)

    ours = make_latents(engine, params, STILL if of_picture else None)
    print(case, scheduler, distance(ours, theirs))
    assert ours.shape == theirs.shape
    # Euler's latents, which are noise times sigma, begin at a sigma of thousands: float32 keeps less of what is beside it.
    assert distance(ours, theirs) < (1e-5 if scheduler == "UniPCMultistepScheduler" else 1e-4)
