"""Trainings of a tiny checkpoint: they learn, and go on to the same bits after any stop."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from promptreel.errors import CheckpointUnusable, InvalidParams, ModelNotFound, TrainingFailed
from promptreel.generation.compute import ComputeThreads
from promptreel.generation.engine import Engine
from promptreel.generation.families.animatediff import LoadedCheckpoint
from promptreel.generation.lora import LoraFile
from promptreel.models.registry import ModelRegistry
from promptreel.training.checkpoints import Checkpoints
from promptreel.training.latents import prepare_examples
from promptreel.training.noising import Noising
from promptreel.training.orders import Order
from promptreel.training.presets import rate_for
from promptreel.training.task import Setup
from tests.generation.checkpoints import WIDTH
from tests.generation.conftest import CPU
from tests.training.conftest import KINDS, Trained
from tests.training.orders import STEPS, draw_pictures, hash_result, make_order, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(models_dir: Path) -> LoadedCheckpoint:
    return load(models_dir, "tiny")


def load(root: Path, name: str) -> LoadedCheckpoint:
    loaded = Engine(ModelRegistry(built_in=root, models_dir=root / "none"), CPU, threads=1).load(name)
    assert isinstance(loaded, LoadedCheckpoint)
    return loaded


def loss_of(model: LoadedCheckpoint, base: LoadedCheckpoint, order: Order) -> float:
    """Of the order's examples, at noise that is the same each time."""
    setup = Setup(
        unet=model.unet,
        noising=Noising(model.space, "cpu"),
        examples=prepare_examples(order, base, lambda _done, _total: None),
        device=CPU,
        compute=ComputeThreads(1),
    )
    return setup.judge(model.unet, setup.fixed_batches(range(len(order.examples)), order.params.num_frames))


@pytest.mark.parametrize("kind", KINDS)
def test_result_predicts_the_examples_better_than_the_base(
    trained: Trained, base: LoadedCheckpoint, kind: str, tmp_path: Path
) -> None:
    folder = trained.folder(kind)
    order = trained.order(kind, tmp_path)
    if order.preset.is_whole:
        model = load(folder, "result")
    else:
        model = base.with_loras([LoraFile("mine", folder / "result.safetensors", kind, 1.0)])

    assert loss_of(model, base, order) < 0.99 * loss_of(base, base, order)


@pytest.mark.parametrize(("kind", "stop_at"), [*((kind, 3) for kind in KINDS), ("subject", 1), ("subject", STEPS - 2)])
def test_stopped_training_goes_on_to_the_same_bits(trained: Trained, kind: str, stop_at: int, tmp_path: Path) -> None:
    seen = {"steps": 0}

    def stop(event):
        # The command is obeyed at the end of the next step.
        seen["steps"] = max(seen["steps"], event.get("step", 0))
        return "stop" if seen["steps"] >= stop_at else None

    first = run(trained.order(kind, tmp_path, checkpoint_seconds=0.0), stop)
    assert not first.named("done")
    name = first.named("checkpoint")[-1]["name"]
    assert stop_at <= int(name.removeprefix("step-")) < STEPS
    second = run(trained.order(kind, tmp_path, resume=name))

    assert second.named("done")
    assert second.named("checkpoint")[0]["step"] > int(name.removeprefix("step-"))
    assert not second.named("caching")
    assert hash_result(tmp_path) == hash_result(trained.folder(kind))
    last = f"checkpoints/step-{STEPS:06d}"
    for file in (tmp_path / last).iterdir():
        assert file.read_bytes() == (trained.folder(kind) / last / file.name).read_bytes(), file.name


def test_samples_wait_for_the_parent_and_change_no_bit(trained: Trained, tmp_path: Path) -> None:
    sizes = []

    def go_on(event):
        if event["event"] != "sample":
            return None
        sizes.append(len(load_file(tmp_path / event["file"])))
        return "go on"

    parent = run(trained.order("subject", tmp_path, sample_prompts=("a cat",)), go_on)

    assert [each["step"] for each in parent.named("sample")] == list(range(STEPS + 1))
    assert len(set(sizes)) == 1
    assert not list((tmp_path / "samples").iterdir())
    ours, theirs = (load_file(folder / "result.safetensors") for folder in (tmp_path, trained.folder("subject")))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_old_checkpoints_stay_until_a_newer_one_is_named(trained: Trained, tmp_path: Path) -> None:
    left: list[set[str]] = []
    order = trained.order("style", tmp_path, steps=4)

    def look(event):
        left.append({path.name for path in (tmp_path / "checkpoints").glob("step-*")})

    run(order, look)
    assert len(left[-1]) == 5  # nobody named one

    Checkpoints(tmp_path / "checkpoints").forget_older("step-000003")
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"step-000002", "step-000003", "step-000004"}


def test_validation_is_of_held_out_examples(models_dir: Path, tmp_path: Path) -> None:
    files = draw_pictures(tmp_path, count=10)
    parent = run(make_order(models_dir, tmp_path / "job", "subject", files, steps=2))

    ratios = [each["ratio"] for each in parent.named("validation")]
    assert len(ratios) == 3
    assert ratios[0] == 1.0
    assert len(set(ratios)) == 3


def test_model_that_predicts_v_is_trained_too(models_dir: Path, pictures: list[str], tmp_path: Path) -> None:
    order = make_order(models_dir, tmp_path, "style", pictures, base="tiny-v")
    run(order)
    base = load(models_dir, "tiny-v")
    model = base.with_loras([LoraFile("mine", tmp_path / "result.safetensors", "v", 1.0)])

    assert loss_of(model, base, order) < 0.99 * loss_of(base, base, order)


def test_pictures_of_all_shapes_are_buckets(models_dir: Path, tmp_path: Path) -> None:
    files = []
    for number, size in enumerate(((40, 40), (80, 40), (20, 70), (300, 10))):
        files.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", size, (200, 10, 10)).save(files[-1])
    order = make_order(models_dir, tmp_path / "job", "style", files, steps=4, batch_size=3)
    parent = run(order)
    (cache,) = (tmp_path / "job").glob("*-examples.safetensors")
    shapes = {tuple(tensor.shape[2:]) for name, tensor in load_file(cache).items() if name.startswith("latents")}

    assert parent.named("done")
    assert shapes == {(8, 8), (6, 12), (14, 4), (4, 14)}


def test_a_loss_that_is_no_number_rolls_back_once_and_then_fails(trained: Trained, tmp_path: Path) -> None:
    parent_events: list[dict[str, object]] = []

    def note(event):
        parent_events.append(dict(event))

    with pytest.raises(TrainingFailed, match="no finite number"):
        run(trained.order("subject", tmp_path, learning_rate=1e30, steps=80), note)
    back = [each for each in parent_events if each["event"] == "rolled back"]
    assert [(each["step"], each["learning_rate"]) for each in back] == [(0, rate_for(0.5e30, WIDTH))]


def test_what_cannot_be_trained_is_named(trained: Trained, models_dir: Path, pictures: list[str], tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no model 'nobody'"):
        run(trained.order("subject", tmp_path, base="nobody"))
    with pytest.raises(InvalidParams, match="There is no motion adapter"):
        run(trained.order("subject", tmp_path, motion_adapter="nobody"))
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(pictures[1]).read_bytes()[:100])
    with pytest.raises(TrainingFailed, match="Example 2 of 3 cannot be read"):
        run(make_order(models_dir, tmp_path, "subject", [pictures[0], str(broken), pictures[2]]))
    with pytest.raises(TrainingFailed, match="Example 1 of 1 cannot be read"):
        run(make_order(models_dir, tmp_path, "motion", [pictures[0]]))
    shutil.copytree(models_dir / "tiny", tmp_path / "models" / "tiny")
    weights = tmp_path / "models" / "tiny" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor / 0 for name, tensor in load_file(weights).items()}, weights)
    with pytest.raises(CheckpointUnusable, match="not finite"):
        run(make_order(tmp_path / "models", tmp_path, "subject", pictures))


def test_checkpoint_of_another_training_or_a_damaged_one_is_refused(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.folder("style"), tmp_path, dirs_exist_ok=True)
    with pytest.raises(TrainingFailed, match="of another training"):
        run(trained.order("style", tmp_path, resume="step-000002", seed=5))
    with pytest.raises(TrainingFailed, match="There is no training checkpoint"):
        run(trained.order("style", tmp_path, resume="../checkpoints/step-000002"))
    state = tmp_path / "checkpoints" / "step-000002" / "optimizer.safetensors"
    state.write_bytes(state.read_bytes()[:-1])
    with pytest.raises(TrainingFailed, match="Start the training anew"):
        run(trained.order("style", tmp_path, resume="step-000002"))
    (tmp_path / "checkpoints" / "step-000004" / "trained.safetensors").unlink()
    with pytest.raises(TrainingFailed, match="damaged"):
        run(trained.order("style", tmp_path, resume="step-000004"))
