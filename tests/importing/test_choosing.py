"""Which files of public repositories are taken, by the names that these repositories have."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from promptreel.errors import CheckpointUnusable
from promptreel.importing.choosing import HOW_TO_CONVERT, choose_files

TEXTS = (
    "scheduler/scheduler_config.json", "text_encoder/config.json", "tokenizer/merges.txt", "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "unet/config.json", "vae/config.json",
)  # fmt: skip
LEFT_BEHIND = (
    ".gitattributes", "README.md", "feature_extractor/preprocessor_config.json", "safety_checker/config.json",
    "safety_checker/model.safetensors", "safety_checker/model.fp16.safetensors", "safety_checker/pytorch_model.bin",
)  # fmt: skip
PIPELINE = ("model_index.json", *TEXTS)
PLAIN = (
    "text_encoder/model.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
)
FP16 = tuple(name.replace(".safetensors", ".fp16.safetensors") for name in PLAIN)
PICKLED = (
    "text_encoder/pytorch_model.bin", "unet/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.bin",
)  # fmt: skip
ADAPTER = ("config.json", "diffusion_pytorch_model.safetensors")

# By repository: what it holds, and what is taken.
REPOSITORIES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": (
        {*PIPELINE, *PLAIN, *FP16, *PICKLED, *LEFT_BEHIND, "unet/diffusion_pytorch_model.non_ema.safetensors",
         "v1-5-pruned.ckpt", "v1-5-pruned.safetensors", "v1-5-pruned-emaonly.ckpt", "v1-5-pruned-emaonly.safetensors",
         "v1-inference.yaml"},
        {*PIPELINE, *PLAIN},
    ),
    "Lykon/dreamshaper-8": ({*PIPELINE, *PLAIN, *FP16, *LEFT_BEHIND}, {*PIPELINE, *PLAIN}),
    "SG161222/Realistic_Vision_V5.1_noVAE": (
        {*PIPELINE, *PLAIN, *PICKLED, "README.md", "Realistic_Vision_V5.1.ckpt", "Realistic_Vision_V5.1.safetensors"},
        {*PIPELINE, *PLAIN},
    ),
    "emilianJR/epiCRealism": ({*PIPELINE, *PLAIN, *LEFT_BEHIND}, {*PIPELINE, *PLAIN}),
    "of the variant fp16 alone": ({*PIPELINE, *FP16, *LEFT_BEHIND}, {*PIPELINE, *FP16}),
    "guoyww/animatediff-motion-adapter-v1-5-2": (
        {*ADAPTER, "diffusion_pytorch_model.fp16.safetensors", "README.md", ".gitattributes"},
        set(ADAPTER),
    ),
    "guoyww/animatediff-motion-adapter-v1-5-3": (
        {"config.json", "diffusion_pytorch_model.fp16.safetensors", ".gitattributes"},
        {"config.json", "diffusion_pytorch_model.fp16.safetensors"},
    ),
    "wangfuyun/AnimateLCM": (
        {*ADAPTER, "diffusion_pytorch_model.fp16.safetensors", "AnimateLCM_sd15_t2v.ckpt", "README.md",
         "AnimateLCM_sd15_t2v_lora.safetensors"},
        set(ADAPTER),
    ),
    "stabilityai/sd-vae-ft-mse": ({*ADAPTER, "diffusion_pytorch_model.bin", "README.md"}, set(ADAPTER)),
    "a file from a download page": ({"toonyou_beta6.safetensors"}, {"toonyou_beta6.safetensors"}),
    "a sharded pipeline": (
        {*PIPELINE, *PLAIN[::2], "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
         "unet/diffusion_pytorch_model-00002-of-00002.safetensors", "unet/diffusion_pytorch_model.safetensors.index.json"},
        {*PIPELINE, *PLAIN[::2], "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
         "unet/diffusion_pytorch_model-00002-of-00002.safetensors", "unet/diffusion_pytorch_model.safetensors.index.json"},
    ),
}  # fmt: skip
LIGHTNING = {
    *(f"animatediff_lightning_{steps}step_{form}.safetensors" for steps in (1, 2, 4, 8) for form in ("comfyui", "diffusers")),
    "README.md", "comfyui/animatediff_lightning_workflow.json",
}  # fmt: skip
FOUR_STEPS = "animatediff_lightning_4step_diffusers.safetensors"
ORIGINALS = {"mm_sd_v14.ckpt", "mm_sd_v15.ckpt", "mm_sd_v15_v2.ckpt", "v3_sd15_mm.ckpt", "README.md"}


@pytest.mark.parametrize(("held", "taken"), REPOSITORIES.values(), ids=REPOSITORIES)
def test_one_set_of_files_is_taken_from_a_repository(held: set[str], taken: set[str]) -> None:
    assert set(choose_files(held, None, of="it")) == taken


@pytest.mark.parametrize(
    ("held", "wanted", "taken"),
    [
        (LIGHTNING, FOUR_STEPS, {FOUR_STEPS}),
        ({*PIPELINE, *PLAIN, "v1-5-pruned.safetensors"}, "v1-5-pruned.safetensors", {"v1-5-pruned.safetensors"}),
        ({"motion_module/mm_v3.safetensors", "lora/a.safetensors"}, "motion_module", {"motion_module/mm_v3.safetensors"}),
        ({*PIPELINE, *PLAIN}, "vae", {"vae/config.json", "vae/diffusion_pytorch_model.safetensors"}),
        ({*PIPELINE, *PLAIN}, PLAIN[2], {"vae/config.json", "vae/diffusion_pytorch_model.safetensors"}),
    ],
)  # fmt: skip
def test_named_file_or_folder_is_taken(held: set[str], wanted: str, taken: set[str]) -> None:
    assert set(choose_files(held, wanted, of="it")) == taken


@pytest.mark.parametrize(
    ("held", "wanted", "says"),
    [
        (LIGHTNING, None, "holds 8 models. Name one of its files: animatediff_lightning_1step_comfyui.safetensors"),
        (ORIGINALS, None, r"pickled weights only: mm_sd_v14.ckpt.*torch.load\(sys.argv\[1\], weights_only=True\)"),
        (ORIGINALS, "v3_sd15_mm.ckpt", "v3_sd15_mm.ckpt is pickled"),
        ({*PIPELINE, *PICKLED}, None, "text_encoder/ holds text_encoder/pytorch_model.bin and no .safetensors file"),
        ({"README.md"}, None, "holds no .safetensors file"),
        (LIGHTNING, "none.safetensors", "it holds no none.safetensors"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_what_to_do(held: set[str], wanted: str | None, says: str) -> None:
    with pytest.raises(CheckpointUnusable, match=says):
        choose_files(held, wanted, of="it")


PICKLED_FORMS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "a training's checkpoint": lambda tied: {"epoch": 3, "state_dict": {"a": tied, "b": tied.T, "step": 7}},
    "a word of AUTOMATIC1111": lambda tied: {
        "string_to_token": {"*": 265}, "string_to_param": {"*": tied}, "name": "style", "step": 7,
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("pickled", PICKLED_FORMS.values(), ids=PICKLED_FORMS)
def test_command_that_refusals_name_converts_a_pickle(tmp_path: Path, pickled: Callable[[Any], dict[str, Any]]) -> None:
    # Here, because it takes a second, in every process that collects tests.
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    held = pickled(torch.arange(6.0).reshape(2, 3))
    torch.save(held, tmp_path / "OLD.ckpt")
    _, *words = shlex.split(HOW_TO_CONVERT[HOW_TO_CONVERT.index("python -c") :])
    subprocess.run([sys.executable, *words], cwd=tmp_path, check=True)
    inside = held.get("state_dict") or held["string_to_param"]
    expected = {name: value for name, value in inside.items() if isinstance(value, torch.Tensor)}
    made = load_file(tmp_path / "NEW.safetensors")

    assert made.keys() == expected.keys()
    assert all(torch.equal(made[name], tensor) for name, tensor in expected.items())
