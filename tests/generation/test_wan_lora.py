"""LoRAs for Wan give the latents of diffusers' own pipeline, in every naming, and leave the model as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from promptreel.errors import CheckpointUnusable
from promptreel.generation.add_ons import LoraFile, share_weights
from promptreel.generation.families.turns import Turns
from promptreel.generation.families.wan import LoadedWan
from promptreel.generation.latent_previews import Previews
from promptreel.models.wan.lora import read_name
from tests.generation.loras import save_lora
from tests.generation.test_wan import (
    PARAMS,
    STILL,
    distance,
    engine,  # noqa: F401 - a fixture
    go_on,
    load,
    run_pipeline,
    wans,  # noqa: F401 - a fixture
)

RANK, ALPHA = 2, 0.5
Halves = dict[str, tuple[Tensor, Tensor]]
# diffusers' names, and those of Wan's authors.
ORIGINAL = {
    "attn1": "self_attn",
    "attn2": "cross_attn",
    "to_out.0": "o",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "add_k_proj": "k_img",
    "add_v_proj": "v_img",
    "net.0.proj": "0",
    "net.2": "2",
}


def draw(model: LoadedWan, *, pictures: bool = False, seed: int = 0) -> Halves:
    """A change of all linear layers in blocks."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for name, layer in model.networks.take("transformer").named_modules():
        if isinstance(layer, nn.Linear) and name.startswith("blocks.") and (pictures or "add_" not in name):
            down = torch.randn((RANK, layer.in_features), generator=generator)
            layers[name] = (down, torch.randn((layer.out_features, RANK), generator=generator))
    return layers


def original(name: str) -> str:
    for theirs, ours in ORIGINAL.items():
        name = name.replace(f".{theirs}", f".{ours}")
    return name


def diffusers(layers: Halves) -> dict[str, Tensor]:
    return {
        f"transformer.{name}.lora_{half}.weight": tensor
        for name, halves in layers.items()
        for half, tensor in zip("AB", halves, strict=True)
    }


def peft(layers: Halves) -> dict[str, Tensor]:
    return {name.replace("transformer.", "base_model.model.", 1): tensor for name, tensor in diffusers(layers).items()}


def second(layers: Halves) -> dict[str, Tensor]:
    return {name.replace("transformer.", "transformer_2.", 1): tensor for name, tensor in diffusers(layers).items()}


def wans_own(layers: Halves) -> dict[str, Tensor]:
    """With alpha, as most trainers write them."""
    tensors = {}
    for name, (down, up) in layers.items():
        key = f"diffusion_model.{original(name)}"
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(ALPHA)}
    return tensors


def wans_own_without_alpha(layers: Halves) -> dict[str, Tensor]:
    """With biases, as distilled models have them."""
    tensors = {}
    for name, (down, up) in layers.items():
        key = f"diffusion_model.{original(name)}"
        tensors |= {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up, f"{key}.diff_b": up.sum(1)}
    return tensors


def bare(layers: Halves) -> dict[str, Tensor]:
    """Wan's own names without a prefix, as DiffSynth-Studio writes them."""
    return {
        f"{original(name)}.lora_{half}.default.weight": tensor
        for name, halves in layers.items()
        for half, tensor in zip("AB", halves, strict=True)
    }


def musubi(layers: Halves) -> dict[str, Tensor]:
    tensors = {}
    for name, (down, up) in layers.items():
        key = f"lora_unet_{original(name).replace('.', '_')}"
        tensors |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(ALPHA)}
    return tensors


Naming = Callable[[Halves], dict[str, Tensor]]
NAMINGS: list[Naming] = [diffusers, peft, wans_own, wans_own_without_alpha, bare, musubi]


def make_latents(engine: Any, model: LoadedWan, params: Any, *, of_picture: bool = False) -> Tensor:  # noqa: F811
    model = model.fit_to(params)
    prepared = model.prepare(params, model.encode_init(torch.from_numpy(STILL.frames)) if of_picture else None)
    previews = Previews(None, space=model.space, colors=lambda: model.colors, fps=8, seconds_apart=0)
    with engine.batcher.seat() as seat:
        return engine._denoise(model, params, prepared, seat, go_on, previews)


def given_to_diffusers(naming: Naming, layers: Halves) -> dict[str, Tensor]:
    """In a naming that diffusers reads."""
    return naming(layers) if naming in {diffusers, wans_own, wans_own_without_alpha, musubi} else diffusers(layers)


@pytest.mark.parametrize("strength", [1.0, -0.5])
@pytest.mark.parametrize("naming", NAMINGS, ids=lambda naming: naming.__name__)
def test_latents_are_those_of_diffusers_pipeline(
    engine: Any,  # noqa: F811
    naming: Naming,
    strength: float,
    tmp_path: Path,
) -> None:
    model = load(engine, "t2v")
    layers = draw(model)
    changed = model.with_loras([save_lora(tmp_path / "lora.safetensors", naming(layers), strength=strength)])

    def change(pipeline: Any) -> None:
        pipeline.load_lora_weights(given_to_diffusers(naming, layers), adapter_name="theirs")
        pipeline.set_adapters(["theirs"], [strength])

    theirs = run_pipeline(engine, PARAMS, of_picture=False, output_type="latent", change=change)
    assert distance(make_latents(engine, changed, PARAMS), theirs) < 1e-5
    assert distance(make_latents(engine, model, PARAMS), theirs) > 1e-3


@pytest.mark.parametrize(
    ("files", "theirs_high", "theirs_low"),
    [
        ([(0, diffusers, None)], 0, 0),
        ([(0, diffusers, "high_noise")], 0, None),
        ([(0, diffusers, "low_noise")], None, 0),
        ([(0, wans_own, "high_noise"), (1, wans_own, "low_noise")], 0, 1),
        ([(0, second, None)], None, 0),
    ],
    ids=["both", "high", "low", "a file for each", "named so"],
)
def test_lora_is_for_both_experts_or_one(
    engine: Any,  # noqa: F811
    files: list[tuple[int, Naming, Any]],
    theirs_high: int | None,
    theirs_low: int | None,
    tmp_path: Path,
) -> None:
    params = replace(PARAMS, model_id="t2v-a14b")
    model = load(engine, "t2v-a14b")
    changed = model.with_loras(
        [
            replace(save_lora(tmp_path / f"{seed}.safetensors", naming(draw(model, seed=seed))), expert=expert)
            for seed, naming, expert in files
        ]
    )
    naming = files[0][1] if files[0][1] is wans_own else diffusers

    def change(pipeline: Any) -> None:
        for is_second, seed in enumerate((theirs_high, theirs_low)):
            if seed is not None:
                pipeline.load_lora_weights(naming(draw(model, seed=seed)), load_into_transformer_2=bool(is_second))

    theirs = run_pipeline(engine, params, of_picture=False, output_type="latent", change=change, guidance_scale_2=3.0)
    assert distance(make_latents(engine, changed, params), theirs) < 1e-5


@pytest.mark.parametrize("pictures", [False, True], ids=["of text alone", "of pictures"])
def test_model_of_pictures_takes_both_kinds(engine: Any, pictures: bool, tmp_path: Path) -> None:  # noqa: F811
    params = replace(PARAMS, model_id="i2v")
    model = load(engine, "i2v")
    layers = draw(model, pictures=pictures)
    changed = model.with_loras([save_lora(tmp_path / "lora.safetensors", wans_own(layers))])

    def change(pipeline: Any) -> None:
        pipeline.load_lora_weights(wans_own(layers))

    theirs = run_pipeline(engine, params, of_picture=True, output_type="latent", change=change)
    assert distance(make_latents(engine, changed, params, of_picture=True), theirs) < 1e-5


def test_alpha_may_be_in_the_metadata(engine: Any, tmp_path: Path) -> None:  # noqa: F811
    """As diffusers' own training scripts write it."""
    model = load(engine, "t2v")
    told = {
        "transformer.r": RANK,
        "transformer.lora_alpha": ALPHA,
        "transformer.target_modules": ["to_q", "to_k", "to_v", "to_out.0"],
    }
    layers = {name: halves for name, halves in draw(model).items() if ".attn" in name}
    path = tmp_path / "lora.safetensors"
    save_file(diffusers(layers), path, {"format": "pt", "lora_adapter_metadata": json.dumps(told)})
    changed = model.with_loras([LoraFile("lora", path, "0", 1.0)])

    def change(pipeline: Any) -> None:
        pipeline.load_lora_weights(path)

    theirs = run_pipeline(engine, PARAMS, of_picture=False, output_type="latent", change=change)
    assert distance(make_latents(engine, changed, PARAMS), theirs) < 1e-5


def test_model_keeps_its_bits_and_weights(engine: Any, tmp_path: Path) -> None:  # noqa: F811
    model = load(engine, "t2v-a14b")
    before = make_latents(engine, model, PARAMS)
    lora = replace(save_lora(tmp_path / "lora.safetensors", diffusers(draw(model))), expert="low_noise")
    changed = model.with_loras([lora])
    make_latents(engine, changed, PARAMS)

    assert torch.equal(make_latents(engine, model, PARAMS), before)
    assert model.with_loras([lora]) is changed
    assert model.with_loras([replace(lora, expert=None)]) is not changed
    assert changed.networks.take("transformer") is model.networks.take("transformer")
    ours, theirs = (
        {weight.data_ptr() for name, weight in each.networks.take("transformer_2").named_parameters() if "lora_" not in name}
        for each in (changed, model)
    )
    assert ours == theirs
    assert not any("lora" in name for name, _ in model.networks.take("transformer_2").named_modules())


def test_lora_that_does_not_fit_is_refused(engine: Any, tmp_path: Path) -> None:  # noqa: F811
    model = load(engine, "t2v")
    wide = {name: tensor.repeat(2, 2) for name, tensor in diffusers(draw(model)).items()}
    half = {name: tensor for name, tensor in diffusers(draw(model)).items() if "lora_A" in name}
    deep = {"transformer.blocks.7.attn1.to_q.lora_A.weight": torch.ones(2, 8)}

    for number, tensors in enumerate((wide, half, deep)):
        with pytest.raises(CheckpointUnusable, match="was made for another one"):
            model.with_loras([save_lora(tmp_path / f"{number}.safetensors", tensors)])
    with pytest.raises(CheckpointUnusable, match="for the expert of low noise, and the model has none"):
        model.with_loras([replace(save_lora(tmp_path / "low.safetensors", diffusers(draw(model))), expert="low_noise")])


def test_copies_take_turns_with_their_model() -> None:
    """The meta device in place of a GPU's. A copy leaves it as it came, and the weights that both share stay."""
    networks = {name: torch.nn.Linear(2, 2) for name in ("one", "two")}
    weight = networks["one"].weight.detach().clone()
    turns = Turns(networks, "meta", together=False)
    turns.take("one")
    changed = turns.with_changed({name: share_weights(network) for name, network in turns.find("one", "three").items()})

    for take, other in ((changed, turns), (turns, changed), (changed, turns)):
        assert take.take("one").weight.is_meta
        assert torch.equal(other._networks["one"].weight, weight)
    changed.take("two")
    assert all(torch.equal(each._networks["one"].weight, weight) for each in (turns, changed))
    assert turns._networks["one"].weight.data_ptr() == changed._networks["one"].weight.data_ptr()


@pytest.mark.parametrize(
    "name",
    [
        "transformer.blocks.0.attn1.norm_q.lora_A.weight",
        "down_blocks.0.attn1.to_q.lora_A.weight",
        "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight",
        "diffusion_model.blocks.0.self_attn.q.lokr_w1",
        "blocks.0.self_attn.q.weight",
    ],
)
def test_other_tensors_change_no_layer(name: str) -> None:
    assert read_name(name) is None
