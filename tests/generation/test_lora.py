"""LoRAs give diffusers' own frames, in every layout, and leave the model as it was."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from promptreel.errors import CheckpointUnusable, GenerationFailed
from promptreel.generation.add_ons import MOST_VARIANTS, LoraFile
from promptreel.generation.engine import Engine
from promptreel.generation.families.animatediff import LoadedCheckpoint
from promptreel.generation.families.family import Rows
from promptreel.generation.told_alpha import fold_told_alpha
from promptreel.jobs.params import VideoParams
from promptreel.models.registry import ModelRegistry
from tests.generation import loras, test_animatediff
from tests.generation.conftest import CPU
from tests.generation.loras import Layout, draw_lora, save_lora
from tests.generation.test_animatediff import pipeline, run_pipeline  # noqa: F401 - a fixture

PARAMS = replace(test_animatediff.PARAMS, num_inference_steps=2)
STRENGTH = -0.5  # neither what is left out means, nor of the same sign
LAYOUTS = [
    loras.kohya,
    loras.diffusers,
    loras.peft_in_diffusers,
    loras.peft,
    loras.attention_processors,
    loras.motion,
]


@pytest.fixture(scope="module")
def model(models: ModelRegistry) -> LoadedCheckpoint:
    loaded = Engine(models, CPU).load("tiny")
    assert isinstance(loaded, LoadedCheckpoint)
    return loaded


@pytest.fixture(scope="module")
def unchanged(models: ModelRegistry, model: LoadedCheckpoint) -> Tensor:
    return denoise(models, model)


def output(model: LoadedCheckpoint) -> Tensor:
    """One guided forward."""
    prepared = model.prepare(PARAMS)
    noise = prepared.start.noise.expand(2, -1, -1, -1, -1)
    return model.forward(Rows(model, noise, torch.full((2,), 500.0), prepared.conditioning, remaining=1))


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_latents_are_those_of_diffusers_pipeline(
    model: LoadedCheckpoint,
    models: ModelRegistry,
    pipeline: Any,  # noqa: F811
    unchanged: Tensor,
    layout: Layout,
    tmp_path: Path,
) -> None:
    tensors = draw_lora(model, layout)
    changed = model.with_loras([save_lora(tmp_path / "lora.safetensors", tensors, strength=STRENGTH)])
    known = layout in (loras.kohya, loras.diffusers, loras.peft_in_diffusers)  # others are given to diffusers in its own layout
    given = (
        tensors if known else {name: tensor for name, tensor in draw_lora(model, loras.diffusers).items() if "unet." in name}
    )
    if layout is loras.motion:
        halves = loras.draw_layers(model.unet, loras.UNET_LAYERS, motion=True)
        given = loras.diffusers(halves, {})
    pipeline.load_lora_weights(given, adapter_name="theirs")
    pipeline.set_adapters(["theirs"], [STRENGTH])
    try:
        theirs = run_pipeline(pipeline, PARAMS, output_type="latent")
    finally:
        pipeline.unload_lora_weights()
    ours = denoise(models, changed)

    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
    assert not torch.allclose(ours, unchanged, atol=1e-3)


def denoise(models: ModelRegistry, model: LoadedCheckpoint, params: VideoParams = PARAMS) -> Tensor:
    engine = Engine(models, CPU)
    sampler = engine.samplers[params.scheduler](model.space, model.prepare(params).start)
    conditioning = model.prepare(params).conditioning
    call = next(sampler)
    while True:
        result = model.forward(model.ask(call, conditioning))
        try:
            call = sampler.send(model.combine(result, call, conditioning, params.guidance_scale))
        except StopIteration as finished:
            latents: Tensor = finished.value
            return latents


def test_alpha_may_be_in_the_metadata(
    model: LoadedCheckpoint,
    models: ModelRegistry,
    pipeline: Any,  # noqa: F811
    tmp_path: Path,
) -> None:
    """As diffusers' own training scripts write it."""
    told = {
        "unet.r": loras.RANK,
        "unet.lora_alpha": 0.5,
        "unet.target_modules": list(loras.draw_layers(model.unet, loras.UNET_LAYERS)),
        "text_encoder.r": loras.RANK,
        "text_encoder.lora_alpha": 3,
        "text_encoder.target_modules": list(loras.TEXT_LAYERS),
    }
    path = tmp_path / "lora.safetensors"
    save_file(draw_lora(model, loras.peft_in_diffusers), path, {"format": "pt", "lora_adapter_metadata": json.dumps(told)})
    changed = model.with_loras([LoraFile("lora", path, "0", 1.0)])
    pipeline.load_lora_weights(path)
    try:
        theirs = run_pipeline(pipeline, PARAMS, output_type="latent")
    finally:
        pipeline.unload_lora_weights()

    ours = denoise(models, changed)
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


@pytest.mark.parametrize(
    "told", ["[", "[]", '{"unet.lora_alpha": "os"}', '{"unet.lora_alpha": NaN}', '{"unet.megatron_core": "os"}']
)
def test_strange_metadata_has_no_effect(told: str) -> None:
    tensors = {"unet.a.lora_B.weight": torch.ones(4, 2)}

    assert torch.equal(fold_told_alpha(tensors, {"lora_adapter_metadata": told})["unet.a.lora_B.weight"], torch.ones(4, 2))


def test_model_keeps_its_bits_and_memory_whatever_loras_are_used(model: LoadedCheckpoint, tmp_path: Path) -> None:
    before = output(model)
    for number in range(MOST_VARIANTS + 2):
        changed = model.with_loras([save_lora(tmp_path / f"{number}.safetensors", draw_lora(model, seed=number))])
        assert not torch.equal(output(changed), before)
        assert changed.unet.conv_in.weight.data_ptr() == model.unet.conv_in.weight.data_ptr()
    assert torch.equal(output(model), before)
    assert not any("lora" in name for name, _ in model.unet.named_modules())
    assert len(model.variants._kept) == MOST_VARIANTS


def test_strength_of_zero_changes_nothing(model: LoadedCheckpoint, tmp_path: Path) -> None:
    changed = model.with_loras([save_lora(tmp_path / "lora.safetensors", draw_lora(model), strength=0.0)])

    assert torch.equal(output(changed), output(model))


def test_two_loras_add_up(model: LoadedCheckpoint, tmp_path: Path) -> None:
    """Twice the same one at half of its strength is the same one."""
    one = save_lora(tmp_path / "one.safetensors", draw_lora(model))
    other = save_lora(tmp_path / "other.safetensors", draw_lora(model, loras.motion))
    halves = [replace(one, strength=0.5), replace(one, strength=0.5)]

    whole = output(model.with_loras([one]))
    assert float((output(model.with_loras(halves)) - whole).norm() / whole.norm()) < 1e-4
    assert not torch.allclose(output(model.with_loras([one, other])), output(model.with_loras([one])), atol=1e-3)


def test_same_loras_are_built_once(model: LoadedCheckpoint, tmp_path: Path) -> None:
    lora = save_lora(tmp_path / "lora.safetensors", draw_lora(model))

    assert model.with_loras([lora]) is model.with_loras([lora])
    assert model.with_loras([lora]) is not model.with_loras([replace(lora, strength=0.3)])


def test_lora_of_another_model_is_refused(model: LoadedCheckpoint, tmp_path: Path) -> None:
    foreign = {"lora_unet_single_blocks_0_linear1.lora_down.weight": torch.ones(2, 8)}
    foreign["lora_unet_single_blocks_0_linear1.lora_up.weight"] = torch.ones(8, 2)
    wide = {
        name: torch.ones(2 * tensor.shape[0], 2 * tensor.shape[1]) for name, tensor in draw_lora(model, loras.diffusers).items()
    }

    for number, tensors in enumerate((foreign, wide, {"weight": torch.ones(2)})):
        with pytest.raises(CheckpointUnusable, match="was made for another one"):
            model.with_loras([save_lora(tmp_path / f"{number}.safetensors", tensors)])


def test_missing_peft_is_named_with_what_to_install(
    model: LoadedCheckpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora = save_lora(tmp_path / "lora.safetensors", draw_lora(model, seed=99))
    monkeypatch.setitem(sys.modules, "peft", None)  # as Python says that there is none

    with pytest.raises(GenerationFailed, match=r"peft, which is not installed here: pip install 'promptreel\[worker\]'"):
        model.with_loras([lora])
