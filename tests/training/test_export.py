"""Files have the names that others read, and stock diffusers makes the same frames of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import UNet2DConditionModel, UNetMotionModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from promptreel.generation.add_ons import LoraFile, share_weights
from promptreel.generation.engine import Engine
from promptreel.generation.families.animatediff import LoadedCheckpoint
from promptreel.jobs.import_params import ImportParams
from promptreel.models.composition import ModelSet
from promptreel.models.detection import detect
from promptreel.models.gate import check_image_checkpoint
from promptreel.models.inspection import inspect
from promptreel.models.kinds import ModelKind
from promptreel.models.registry import ModelRegistry
from promptreel.training.export import hash_params, name_kohya, name_motion, save_checkpoint
from promptreel.training.layers import TRAINED, add_lora, leave_out_motion, read_halves
from promptreel.training.presets import ATTENTION, BLOCKS, MOTION
from promptreel.training.tensor_files import save_tensors
from tests.generation import original_files as original
from tests.generation.checkpoints import TABLE
from tests.generation.conftest import CPU
from tests.generation.test_animatediff import pipeline, run_pipeline  # noqa: F401 - a fixture
from tests.generation.test_lora import PARAMS, denoise
from tests.training.conftest import Trained

# The layers of Stable Diffusion 1.5 as kohya-ss/sd-scripts names them, and of AnimateDiff's motion modules as its authors do.
WITH_ATTENTION = [
    *(f"down_blocks_{block}_attentions_{number}" for block in (0, 1, 2) for number in (0, 1)),
    "mid_block_attentions_0",
    *(f"up_blocks_{block}_attentions_{number}" for block in (1, 2, 3) for number in (0, 1, 2)),
]
OF_ATTENTION = [f"attn{number}_to_{layer}" for number in (1, 2) for layer in ("q", "k", "v", "out_0")]
OF_FEED_FORWARD = ["ff_net_0_proj", "ff_net_2"]
RESNETS = [
    *(f"down_blocks_{block}_resnets_{number}" for block in range(4) for number in (0, 1)),
    *(f"mid_block_resnets_{number}" for number in (0, 1)),
    *(f"up_blocks_{block}_resnets_{number}" for block in range(4) for number in (0, 1, 2)),
]
KOHYA = ("lora_down.weight", "lora_up.weight", "alpha")
WITH_MOTION = [
    *(f"down_blocks.{block}.motion_modules.{number}" for block in range(4) for number in (0, 1)),
    *(f"up_blocks.{block}.motion_modules.{number}" for block in range(4) for number in (0, 1, 2)),
]
OF_MOTION = (
    "{modules}.temporal_transformer.transformer_blocks.0.attention_blocks.{number}.processor.to_{layer}_lora.{half}.weight"
)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def models(models_dir: Path) -> ModelRegistry:
    return ModelRegistry(built_in=models_dir, models_dir=models_dir / "none")


@pytest.fixture(scope="module")
def base(models: ModelRegistry) -> LoadedCheckpoint:
    loaded = Engine(models, CPU, threads=1).load("tiny")
    assert isinstance(loaded, LoadedCheckpoint)
    return loaded


def make_sd15() -> Any:
    """The UNet of Stable Diffusion 1.5 with AnimateDiff's motion modules; its weights take no memory."""
    with torch.device("meta"):
        return UNetMotionModel(cross_attention_dim=768, motion_max_seq_length=32, use_motion_mid_block=False)


def names_of(layers: str, *, is_motion: bool = False) -> set[str]:
    unet = make_sd15()
    with torch.device("meta"):
        add_lora(unet, layers, rank=1)
    halves = {
        name: (torch.zeros(1, down.shape[1]), torch.zeros(up.shape[0], 1))
        for name, layer in unet.named_modules()
        if TRAINED in getattr(layer, "lora_A", ())
        for down, up in [(layer.lora_A[TRAINED].weight, layer.lora_B[TRAINED].weight)]
    }
    return set((name_motion if is_motion else name_kohya)(halves))


def test_names_are_those_of_kohya() -> None:
    of_attention = {f"{block}_transformer_blocks_0_{part}" for block in WITH_ATTENTION for part in OF_ATTENTION}
    of_feed_forward = {f"{block}_transformer_blocks_0_{part}" for block in WITH_ATTENTION for part in OF_FEED_FORWARD}
    convolutions = {f"{resnet}_conv{number}" for resnet in RESNETS for number in (1, 2)}

    for layers, expected in ((ATTENTION, of_attention), (BLOCKS, of_attention | of_feed_forward | convolutions)):
        assert names_of(layers) == {f"lora_unet_{layer}.{end}" for layer in expected for end in KOHYA}


def test_names_are_those_of_animatediff() -> None:
    assert names_of(MOTION, is_motion=True) == {
        OF_MOTION.format(modules=modules, number=number, layer=layer, half=half)
        for modules in WITH_MOTION
        for number in (0, 1)
        for layer in ("q", "k", "v", "out")
        for half in ("down", "up")
    }


def test_lora_for_stable_diffusion_is_recognised(tmp_path: Path) -> None:
    tensors = {
        f"lora_unet_{block}_transformer_blocks_0_attn2_to_k.{end}": torch.zeros(shape)
        for block in WITH_ATTENTION
        for end, shape in (("lora_down.weight", (1, 768)), ("lora_up.weight", (320, 1)), ("alpha", ()))
    }
    save_tensors(tmp_path / "x.safetensors", tensors, {"ss_network_dim": "1"})
    found = detect({"x.safetensors": tmp_path / "x.safetensors"})

    assert (found.kind, found.family, found.base) == (ModelKind.LORA, "animatediff", "sd15")


@pytest.mark.parametrize("kind", ["subject", "lycoris", "style", "motion"])
def test_file_is_a_lora_with_alpha_folded_and_a_description(trained: Trained, kind: str, tmp_path: Path) -> None:
    path = trained.folder(kind) / "result.safetensors"
    found = detect({path.name: path})
    order = trained.order(kind, tmp_path)
    with safe_open(path, "pt") as file:
        told = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict

    assert found.kind is ModelKind.LORA
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    downs = [name for name in tensors if name.endswith("down.weight")]
    assert {len(tensors[name]) for name in downs} == {int(told["ss_network_dim"])}
    alphas = {float(tensor) for name, tensor in tensors.items() if name.endswith(".alpha")}
    assert alphas == (set() if kind == "motion" else {float(told["ss_network_dim"])})
    assert told["ss_network_alpha"] == told["ss_network_dim"]
    assert told["modelspec.title"] == "mine"
    assert told["modelspec.trigger_phrase"] == "sks"
    assert told["promptreel.params_hash"] == hash_params(order)


@pytest.mark.parametrize("kind", ["subject", "lycoris", "style", "motion"])
def test_our_engine_and_stock_diffusers_make_the_same_frames(
    trained: Trained,
    models: ModelRegistry,
    base: LoadedCheckpoint,
    pipeline: Any,  # noqa: F811
    kind: str,
) -> None:
    path = trained.folder(kind) / "result.safetensors"
    changed = base.with_loras([LoraFile("mine", path, kind, 1.0)])
    given: Any = as_in_diffusers(load_file(path)) if kind == "motion" else str(path)
    pipeline.load_lora_weights(given, adapter_name="theirs")
    try:
        theirs = run_pipeline(pipeline, PARAMS, output_type="latent")
    finally:
        pipeline.unload_lora_weights()
    ours = denoise(models, changed)

    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
    assert not torch.allclose(ours, denoise(models, base), atol=1e-3)


def as_in_diffusers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As diffusers' scripts/convert_animatediff_motion_lora_to_diffusers.py does: its pipelines do not read the original."""
    converted = {}
    for name, tensor in tensors.items():
        new = name.replace(".temporal_transformer", "").replace(".processor", "")
        new = new.replace("attention_blocks.0", "attn1").replace("attention_blocks.1", "attn2")
        new = new.replace("to_out_lora", "to_out.0.lora").replace("_lora.", ".lora.")
        converted[f"unet.{new}"] = tensor
    return converted


@pytest.mark.parametrize("kind", ["subject", "style", "lycoris"])
def test_lora_for_pictures_works_in_stable_diffusion(
    trained: Trained, base: LoadedCheckpoint, models_dir: Path, kind: str
) -> None:
    """Without motion modules, ours is diffusers' picture UNet."""
    path = trained.folder(kind) / "result.safetensors"
    pictures = UNet2DConditionModel.from_pretrained(models_dir / "tiny" / "unet").eval()
    theirs = diffusers.StableDiffusionPipeline(
        vae=base.vae,
        text_encoder=base.prompts.text_encoder,
        tokenizer=base.prompts.tokenizer,
        unet=pictures,
        scheduler=diffusers.DDIMScheduler(**TABLE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    ours = leave_out_motion(base.with_loras([LoraFile("mine", path, kind, 1.0)]).unet)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = base.encode_text("a photo of a sks cat")
    with torch.no_grad():
        plain = pictures(noise, 500, encoder_hidden_states=text).sample
        without = leave_out_motion(base.unet)(noise[:, :, None], 500, encoder_hidden_states=text).sample[:, :, 0]
        assert torch.allclose(plain, without, atol=1e-6)
        theirs.load_lora_weights(str(path))
        changed = theirs.unet(noise, 500, encoder_hidden_states=text).sample
        found = ours(noise[:, :, None], 500, encoder_hidden_states=text).sample[:, :, 0]

    assert float((changed - found).norm() / changed.norm()) < 1e-5
    assert not torch.allclose(changed, plain, atol=1e-3)


def test_file_changes_what_was_trained(base: LoadedCheckpoint) -> None:
    """A Kronecker product becomes the product that it is, whatever the shapes of its factors."""
    for rank in (4, 64):
        unet = share_weights(base.unet)
        for weights in add_lora(unet, ATTENTION, rank=rank, kind="lokr").values():
            torch.nn.init.normal_(weights, generator=torch.Generator().manual_seed(rank))
        layers = {name: layer for name, layer in unet.named_modules() if TRAINED in getattr(layer, "lokr_w1", ())}
        halves = read_halves(unet)
        assert layers.keys() == halves.keys()
        for name, (down, up) in halves.items():
            assert torch.allclose(up @ down, layers[name].get_delta_weight(TRAINED), rtol=1e-4, atol=1e-5)


def test_checkpoint_has_the_files_of_its_base(trained: Trained, models_dir: Path, models: ModelRegistry) -> None:
    result = trained.folder("dreambooth") / "result"
    base = models_dir / "tiny"
    names = {path.relative_to(base) for path in base.rglob("*.*")}
    assert {path.relative_to(result) for path in result.rglob("*.*")} == names
    same = {name for name in names if (base / name).read_bytes() == (result / name).read_bytes()}
    assert names - same == {Path("promptreel.json"), Path("unet/diffusion_pytorch_model.safetensors")}
    before, after = (load_file(root / "unet/diffusion_pytorch_model.safetensors") for root in (base, result))
    assert {name: tensor.dtype for name, tensor in before.items()} == {name: tensor.dtype for name, tensor in after.items()}
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("to_q.weight"))

    paths = {path.relative_to(result).as_posix(): path for path in result.rglob("*.*")}
    found = inspect(paths, ImportParams(model_id="mine", source=str(result)), reads_weights=True)
    assert (found.kind, found.card["name"]) == (ModelKind.CHECKPOINT, "mine")
    card = json.loads((result / "promptreel.json").read_text())
    assert card == {**json.loads((base / "promptreel.json").read_text()), "name": "mine", "description": card["description"]}
    UNet2DConditionModel.from_pretrained(result / "unet")


def test_checkpoint_in_one_file_stays_one_file(trained: Trained, tmp_path: Path) -> None:
    root = tmp_path / "models" / "single"
    unet, vae, text = original.make_unet(), original.make_vae(), original.make_text_encoder()
    whole = original.original_unet(unet) | original.original_vae(vae) | original.original_text_encoder(text)
    original.save(root / "single.safetensors", whole, torch.float16)
    original.make_adapter().save_pretrained(tmp_path / "models" / "adapter")
    card = {"name": "S", "family": "animatediff", "max_frames": 16, "fps": 8}
    for name in ("single", "adapter"):
        (tmp_path / "models" / name / "promptreel.json").write_text(json.dumps(card))
    models = ModelRegistry(built_in=tmp_path / "models", models_dir=tmp_path / "none")
    trained_weights = {name: tensor + 1 for name, tensor in unet.state_dict().items()}
    order = trained.order("dreambooth", tmp_path)
    save_checkpoint(
        tmp_path / "result",
        trained_weights,
        order,
        ModelSet(checkpoint=models.get("single"), adapter=models.get("adapter")),
    )

    assert {path.name for path in (tmp_path / "result").iterdir()} == {"single.safetensors", "promptreel.json"}
    stored = check_image_checkpoint(tmp_path / "result").networks["unet"].tensors
    tensors = load_file(tmp_path / "result" / "single.safetensors")
    for name, weights in trained_weights.items():
        assert torch.equal(tensors[stored[name].name].reshape(weights.shape), weights.half()), name
    assert tensors.keys() == whole.keys()
