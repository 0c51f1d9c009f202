"""The training loop, the optimizer, and the packaging of a training folder."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from recipes.cutout.loop import Budget, Loop, save_weights
from recipes.cutout.motion import Positions, build_motion_adapter, join
from recipes.cutout.muon import orthogonalize
from recipes.cutout.package import package, unpack
from recipes.cutout.picture import build_unet
from recipes.cutout.progress import keep_progress, take_up_progress
from recipes.cutout.quick import quicken
from recipes.cutout.text import build_text_encoder, build_tokenizer
from recipes.cutout.vae import build_vae, draw_batch


def new_loop(folder: Path) -> tuple[Loop, nn.Module]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    return Loop({"model": model}, folder / "stage", lr=0.05), model


def fit(model: nn.Module) -> Tensor:
    x = torch.linspace(-1, 1, 32).reshape(8, 4)
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


class Stopped(Exception):
    """The training is stopped here."""


def test_stopped_training_continues_as_if_never_stopped(tmp_path: Path) -> None:
    whole, model = new_loop(tmp_path / "whole")
    whole.run(lambda: fit(model), Budget(steps=20))
    first, stopped_model = new_loop(tmp_path / "parts")

    def fit_half() -> Tensor:
        if first.step == 10:
            first.save()
            raise Stopped
        return fit(stopped_model)

    with pytest.raises(Stopped):
        first.run(fit_half, Budget(steps=20))
    second, resumed_model = new_loop(tmp_path / "parts")
    second.run(lambda: fit(resumed_model), Budget(steps=20))

    one, other = (load_file(tmp_path / name / "stage" / "average.safetensors") for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_loss_that_is_not_finite_stops_training_and_keeps_files(tmp_path: Path) -> None:
    loop, model = new_loop(tmp_path)
    loop.run(lambda: fit(model), Budget(steps=3))
    kept = (tmp_path / "stage" / "weights.safetensors").read_bytes()

    with pytest.raises(FloatingPointError, match="step 3"):
        loop.run(lambda: fit(model) * float("nan"), Budget(steps=6))
    assert (tmp_path / "stage" / "weights.safetensors").read_bytes() == kept


@pytest.mark.parametrize("shape", [(160, 1440), (96, 864), (640, 160)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    (result,) = orthogonalize([matrix])

    values = torch.linalg.svdvals(result)
    assert result.shape == matrix.shape
    assert 0.3 < values.min() <= values.max() < 1.3


@pytest.mark.parametrize("scale", [1.0, 1e-6, 0.0])
def test_orthogonalized_matrix_of_low_rank_is_finite(scale: float) -> None:
    random = torch.Generator().manual_seed(0)
    low = torch.randn(160, 2, generator=random) @ torch.randn(2, 1440, generator=random) * scale

    (result,) = orthogonalize([low])

    assert torch.isfinite(result).all()
    assert torch.linalg.matrix_norm(result, 2) < 1.5


def test_positions_replace_those_of_motion_modules() -> None:
    torch.manual_seed(0)
    unet = join(build_unet(), build_motion_adapter()).eval()
    for name, weight in unet.named_parameters():
        if "motion_modules" in name and "proj_out" in name:
            nn.init.normal_(weight, std=0.1)  # zero initially, so positions would make no difference
    positions = Positions(unet)
    latents, text = torch.randn(1, 16, 2, 12, 12), torch.randn(2, 32, 128)

    def run() -> Tensor:
        with torch.no_grad():
            return unet(latents, torch.tensor([500]), text).sample

    plain = run()
    with positions.at(torch.tensor([[0, 1]])):
        assert torch.equal(plain, run())
    with positions.at(torch.tensor([[0, 30]])):
        assert not torch.allclose(plain, run(), atol=1e-4)
    assert torch.equal(plain, run())


def test_each_clip_of_a_batch_has_its_own_positions() -> None:
    unet = join(build_unet(), build_motion_adapter())
    module = next(module for module in unet.modules() if hasattr(module, "pe"))
    table = module.pe.clone()

    with Positions(unet).at(torch.tensor([[0, 30], [5, 6]])):
        inside = module.pe

    assert inside.shape == (2 * 36, 2, 160)
    assert torch.equal(inside[35], table[0, [0, 30]])
    assert torch.equal(inside[36], table[0, [5, 6]])


@pytest.mark.slow
def test_packaged_files_can_be_unpacked_and_trained_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder, target, again = tmp_path / "train", tmp_path / "cutout", tmp_path / "again"
    unet = join(build_unet(), build_motion_adapter())
    encoder = build_text_encoder(build_tokenizer())
    for stage, modules in {"motion": {"unet": unet, "text_encoder": encoder}, "vae": {"vae": build_vae()}}.items():
        (folder / stage).mkdir(parents=True)
        save_weights(modules, folder / stage / "average.safetensors")

    package(folder, target, measured_frames=16)
    unpack(again, target)

    assert sum(path.stat().st_size for path in target.rglob("*")) < 25e6
    before, after = (load_file(place / "motion" / "average.safetensors") for place in (folder, again))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name].half().float(), after[name].float()) for name in before)

    config = target / "vae" / "config.json"
    config.write_text(config.read_text().replace('"latent_channels": 16', '"latent_channels": 8'))
    with pytest.raises(SystemExit, match="take-up"):
        unpack(again, target)


@pytest.mark.slow
def test_vocabulary_is_the_same_in_every_process() -> None:
    """Otherwise a resumed training would take some words for others."""
    code = "import gc; gc.disable()\n"  # otherwise the imports take a fifth longer
    code += "from recipes.cutout.text import build_tokenizer; print(sorted(build_tokenizer().get_vocab().items()))"
    environment = os.environ | {"PYTHONHASHSEED": "1"}  # sets have another order than here
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)

    assert ran.stdout == f"{sorted(build_tokenizer().get_vocab().items())}\n"


def test_quick_vae_computes_what_plain_vae_does() -> None:
    torch.manual_seed(0)
    plain, quick = build_vae(), build_vae()
    for name, weight in plain.named_parameters():
        if "norm" in name:
            nn.init.normal_(weight, mean=1.0, std=0.2)  # one and zero initially, which would hide mistakes
    quick.load_state_dict(plain.state_dict())
    quicken(quick)
    frames = torch.rand(2, 3, 64, 64) * 2 - 1

    for vae in (plain, quick):
        (vae.decoder(vae.encoder(frames)) - frames).square().mean().backward()

    assert torch.allclose(plain.decoder(plain.encoder(frames)), quick.decoder(quick.encoder(frames)), atol=1e-4)
    for (name, one), other in zip(plain.named_parameters(), quick.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad, atol=1e-4 * float(one.grad.abs().max()) + 1e-7), name


def test_training_continues_from_kept_weights(tmp_path: Path) -> None:
    loop, model = new_loop(tmp_path / "first")
    loop.run(lambda: fit(model), Budget(steps=20))
    keep_progress(tmp_path / "first", "stage", tmp_path / "kept")

    take_up_progress(tmp_path / "second", tmp_path / "kept")
    resumed, resumed_model = new_loop(tmp_path / "second")

    assert resumed.step == 20
    average = load_file(tmp_path / "first" / "stage" / "average.safetensors")
    for name, weight in resumed_model.state_dict().items():
        assert torch.equal(average[f"model/{name}"].half().float(), weight), name
    resumed.run(lambda: fit(resumed_model), Budget(steps=21))
    assert resumed.step == 21


def test_kept_weights_do_not_replace_those_of_training_folder(tmp_path: Path) -> None:
    loop, model = new_loop(tmp_path)
    loop.run(lambda: fit(model), Budget(steps=1))
    keep_progress(tmp_path, "stage", tmp_path / "kept")
    loop.run(lambda: fit(model), Budget(steps=3))

    take_up_progress(tmp_path, tmp_path / "kept")

    assert new_loop(tmp_path)[0].step == 3


def test_most_batches_of_vae_are_crops() -> None:
    rng = random.Random(0)

    shapes = [tuple(draw_batch(rng).shape) for _ in range(20)]

    assert set(shapes) == {(16, 3, 192, 192), (32, 3, 96, 96)}
    assert shapes.count((32, 3, 96, 96)) > 10
