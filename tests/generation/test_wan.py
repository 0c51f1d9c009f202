"""Wan against diffusers' own pipelines, loaded from the same folders, on the same noise levels."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from promptreel.generation.families.family import join
from promptreel.generation.families.turns import Turns
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
            parts[name] = diffusers.WanTransformer3DModel.from_config(
                diffusers.WanTransformer3DModel.load_config(folder / name)
            )
            parts[name].load_state_dict(load_file(folder / name / "diffusion_pytorch_model.safetensors"))
            parts[name].eval()
    if index["image_encoder"] != [None, None]:
        parts["image_encoder"] = CLIPVisionModel.from_pretrained(folder / "image_encoder").eval()
        parts["image_processor"] = CLIPImageProcessorPil.from_pretrained(folder / "image_processor")
    pipeline = (diffusers.WanImageToVideoPipeline if of_picture else diffusers.WanPipeline)(**parts)
    pipeline._get_t5_prompt_embeds = partial(diffusers.WanPipeline._get_t5_prompt_embeds, pipeline)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run_pipeline(
    engine: Engine,
    params: VideoParams,
    *,
    of_picture: bool,
    output_type: str,
    change: Callable[[Any], None] = lambda _pipeline: None,
    **more: Any,
) -> Any:
    """What diffusers makes of the request, at the times of our samplers. `change` gets the pipeline before it runs."""
    model = load(engine, params.model_id).fit_to(params)
    init = model.encode_init(torch.from_numpy(STILL.frames)) if of_picture else None
    sampler = engine.samplers[params.scheduler](model.space, model.prepare(params, init).start)
    call = next(sampler)
    latents, times = model.space.to_model(call.latents, call.timestep)[0], []
    try:
        while True:
            times.append(model.space.to_model(call.latents, call.timestep)[1] / 1000)
            call = sampler.send(torch.zeros_like(call.latents))
    except StopIteration:
        pass
    pipeline = load_pipeline(model, of_picture=of_picture)
    change(pipeline)
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
    assert ours.shape == theirs.shape
    assert distance(ours, theirs) < 1e-5


@pytest.mark.parametrize("case", ["t2v", "ti2v of a picture"])
def test_frames_are_those_of_diffusers_pipeline(engine: Engine, case: str) -> None:
    model_id, of_picture = CASES[case]
    params = replace(PARAMS, model_id=model_id)
    ours = engine.generate(params, go_on, init=STILL if of_picture else None).clip
    theirs = run_pipeline(engine, params, of_picture=of_picture, output_type="np")[0]

    assert ours.frames.shape == (9, 32, 64, 3)
    assert ours.frames.std() > 1
    assert np.abs(ours.frames - theirs * 255).max() < 0.51  # rounded to whole numbers


@pytest.mark.parametrize("model_id", ["t2v", "ti2v"])
def test_parts_have_the_bits_of_the_whole(engine: Engine, model_id: str) -> None:
    """A clip is encoded and decoded a few frames at a time; diffusers does so too, and puts the parts together."""
    model = load(engine, model_id)
    vae = model.networks.take("vae")
    frames = torch.randint(0, 256, (13, 32, 64, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.inference_mode():
        encoded = vae.encode((frames.float() / 255 * 2 - 1).permute(3, 0, 1, 2)[None]).latent_dist.mode()
        pictures = vae.decode(encoded).sample
    mean, std = (torch.tensor(each).view(1, -1, 1, 1, 1) for each in (vae.config.latents_mean, vae.config.latents_std))
    latents = model.encode_init(frames).latents
    assert latents is not None
    assert torch.equal(latents, (encoded - mean) * (1.0 / std))

    decoded = torch.cat(list(model.vae.decode(latents, lambda: None)), dim=2)
    assert decoded.shape == pictures.shape == (1, 3, 13, 32, 64)
    assert float((decoded - pictures).abs().max()) < 1e-5  # normalized and back in between
    parts = list(model.decode(latents, torch.Generator()))
    assert [len(part) for part in parts] == [1, 4, 4, 4]


@pytest.mark.parametrize("text", ["a red cat", "", "A  Red,\n cat! &lt;b&gt;", "x" * 600, "\u65e5\u672c <extra_id_0> cat"])
def test_embeddings_are_those_of_diffusers_pipeline(engine: Engine, text: str) -> None:
    model = load(engine, "t2v")
    with torch.inference_mode():
        theirs = load_pipeline(model, of_picture=False)._get_t5_prompt_embeds(text, max_sequence_length=512)

    assert torch.equal(model.encode_text(text), theirs)


@pytest.mark.parametrize("model_id", ["t2v-a14b", "ti2v"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_makes_a_clip(engine: Engine, model_id: str, scheduler: str) -> None:
    params = replace(PARAMS, model_id=model_id, scheduler=scheduler, num_frames=5, num_inference_steps=3)
    init = Clip(STILL.frames[:5], 16) if model_id == "ti2v" else None

    assert torch.isfinite(make_latents(engine, params, init)).all()


@pytest.mark.parametrize("scheduler", ["UniPCMultistepScheduler", "EulerAncestralDiscreteScheduler", "DDIMScheduler"])
def test_clip_begins_with_the_given_picture(engine: Engine, scheduler: str) -> None:
    params = replace(PARAMS, model_id="ti2v", scheduler=scheduler)
    first = load(engine, "ti2v").encode_init(torch.from_numpy(STILL.frames)).conditioning["first"]

    assert first.shape == (1, 4, 1, 2, 4)
    assert torch.allclose(make_latents(engine, params, STILL)[:, :, :1], first, atol=0.02)


def test_video_starts_a_clip_at_the_level_of_its_strength(engine: Engine) -> None:
    moving = Clip(np.random.default_rng(0).integers(0, 256, (9, 32, 64, 3), dtype=np.uint8), 16)
    clean = load(engine, "t2v").encode_init(torch.from_numpy(moving.frames)).latents
    assert clean is not None
    close, far = (
        distance(make_latents(engine, replace(PARAMS, init_key="x", strength=strength), moving), clean)
        for strength in (0.1, 0.9)
    )

    assert close < 0.6 * far


def test_clip_has_the_same_bits_in_company(engine: Engine) -> None:
    """Two clips of the experts, at different calls, and one of another model, all at once."""
    jobs = [
        (replace(PARAMS, model_id="t2v-a14b", seed=1), None),
        (replace(PARAMS, model_id="t2v-a14b", seed=2, guidance_scale=1.0, num_inference_steps=6), None),
        (replace(PARAMS, model_id="ti2v", seed=3), STILL),
    ]
    alone = [engine.generate(params, go_on, init=init).clip.frames for params, init in jobs]
    with ThreadPoolExecutor(len(jobs)) as pool:
        together = list(pool.map(lambda job: engine.generate(job[0], go_on, init=job[1]).clip.frames, jobs))

    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one, other)


def test_rows_of_different_jobs_may_share_a_forward(engine: Engine) -> None:
    """As on a GPU: the conditioning is put together and taken apart, and each row is computed as by itself."""
    model = load(engine, "i2v")
    init = model.encode_init(torch.from_numpy(STILL.frames))
    prepared = [model.prepare(replace(PARAMS, model_id="i2v", seed=seed, prompt=f"cat {seed}"), init) for seed in (1, 2)]
    rows = [model.ask(next(engine.samplers[PARAMS.scheduler](model.space, each.start)), each.conditioning) for each in prepared]
    assert rows[0].group_key == rows[1].group_key
    both = replace(
        rows[0],
        latents=torch.cat([each.latents for each in rows]),
        timesteps=torch.cat([each.timesteps for each in rows]),
        conditioning=join([each.conditioning for each in rows]),
    )

    assert torch.allclose(model.forward(both), torch.cat([model.forward(each) for each in rows]), atol=1e-5)


def test_model_of_pictures_needs_one(engine: Engine) -> None:
    with pytest.raises(GenerationFailed, match="makes videos from a picture: send one"):
        engine.generate(replace(PARAMS, model_id="i2v"), go_on)


def test_shift_goes_by_size_where_the_card_says_so(engine: Engine) -> None:
    model = load(engine, "t2v-by-size")
    middles = {
        size: float(model.fit_to(replace(PARAMS, model_id="t2v-by-size", width=size[0], height=size[1])).space.sigmas[499])
        for size in ((832, 480), (1280, 720))
    }

    assert middles == {(832, 480): pytest.approx(3), (1280, 720): pytest.approx(5)}
    assert float(load(engine, "t2v").space.sigmas[499]) == pytest.approx(3)  # of the scheduler's file


def test_previews_have_the_colors_of_the_clip(engine: Engine) -> None:
    assert load(engine, "ti2v").colors.shape == (5, 3)
    shown: list[Clip] = []
    quick = Engine(engine.models, CPU, preview_seconds=0)
    quick.generate(PARAMS, go_on, on_preview=shown.append)

    assert {clip.frames.shape for clip in shown} == {(3, 4, 8, 3)}  # a picture for each latent
    assert {clip.fps for clip in shown} == {2}


def test_networks_take_turns_where_they_do_not_fit() -> None:
    """The meta device, which has no memory, in place of a GPU's: what leaves it must come back from where it was."""
    networks = {name: torch.nn.Linear(2, 2) for name in ("one", "two")}
    weights = {name: network.weight.detach().clone() for name, network in networks.items()}
    turns = Turns(networks, "meta", together=False)
    for name, other in (("one", "two"), ("two", "one"), ("one", "two")):
        assert turns.take(name) is networks[name]
        assert networks[name].weight.is_meta
        assert torch.equal(networks[other].weight, weights[other])
