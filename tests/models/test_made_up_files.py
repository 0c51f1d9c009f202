"""Made-up headers and configs: whatever they say, detection and the gate only raise our own error, in little memory."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from promptreel.errors import CheckpointUnusable
from promptreel.jobs.import_params import ImportParams
from promptreel.models.inspection import inspect
from tests.models.headers import Shapes, checkpoint_shapes, original, shapes_of, write_header

MEMORY = 100 << 20
UNET = "model.diffusion_model."
EMBEDDING = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"
PIECES = [
    UNET, "first_stage_model.", "cond_stage_model.transformer.", "text_model.", "module.", "input_blocks.", "output_blocks.",
    "middle_block.", "0.", "1.", "2.", "11.", "999999999999.", "out_layers.3.", "in_layers.0.", "op.", "transformer_blocks.",
    "attn2.to_k.", "proj_in.", "decoder.", "encoder.", "up.", "down.", "block.", "mid.attn_1.", "conv_in.", "down_blocks.",
    "motion_modules.", "temporal_transformer.", "pos_encoder.pe", "norm.", "weight", "bias", "lora_", "emb_params", "",
    "embeddings.token_embedding.", "mlp.fc1.", "layers.",
]  # fmt: skip
NAMES = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join).filter(bool)
SHAPES = st.lists(st.integers(0, 9), max_size=5).map(tuple)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
Change = tuple[str, int, tuple[int, ...], str]
LIKELY = st.sampled_from([(), (0,), (1,), (1 << 40, 0), (0, 1 << 62), (9, 9), (1, 2, 3, 4, 5, 6, 7, 8)]) | SHAPES
CHANGES = st.lists(
    st.tuples(st.sampled_from(["drop", "shape", "rename", "copy"]), st.integers(0, 10_000), LIKELY, NAMES),
    min_size=1,
    max_size=4,
)


FORMS = ("adapter", "adapter in diffusers' names", "checkpoint", "vae", "vae in diffusers' names")


@cache
def tiny_forms() -> Mapping[str, Shapes]:
    made = original()
    parts = {"unet": made.make_unet(), "vae": made.make_vae(), "text_encoder": made.make_text_encoder()}
    adapter = made.make_adapter()
    return {
        "checkpoint": checkpoint_shapes(parts),
        "adapter": shapes_of(made.original_adapter(adapter)),
        "adapter in diffusers' names": shapes_of(adapter.state_dict()),
        "vae": shapes_of(made.original_vae(parts["vae"], "")),
        "vae in diffusers' names": shapes_of(parts["vae"].state_dict()),
    }


def look(paths: Mapping[str, Path]) -> None:
    with contextlib.suppress(CheckpointUnusable):
        inspect(paths, ImportParams(model_id="x", source="x"))


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors=st.dictionaries(NAMES, SHAPES, max_size=12), config=st.none() | VALUES)
def test_made_up_files_are_told_or_refused(tmp_path: Path, tensors: dict[str, tuple[int, ...]], config: object) -> None:
    """Whatever the names, the shapes and the configs: nothing but our own error."""
    paths = write_header(tmp_path / "model.safetensors", tensors)
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        paths["config.json"] = tmp_path / "config.json"
    look(paths)


@pytest.mark.slow
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(form=st.sampled_from(FORMS), changes=CHANGES)
def test_changed_files_are_told_or_refused(tmp_path: Path, form: str, changes: Sequence[Change]) -> None:
    """Real files with tensors that are gone, renamed, twice there or of another shape."""
    shapes = dict(tiny_forms()[form])
    for what, number, shape, name in changes:
        old = sorted(shapes)[number % len(shapes)]
        match what:
            case "drop":
                del shapes[old]
            case "shape":
                shapes[old] = shape
            case "rename":
                shapes[name + old] = shapes.pop(old)
            case "copy":
                shapes[name] = shapes[old]
    look(write_header(tmp_path / "model.safetensors", shapes))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(index=VALUES, named=VALUES)
def test_made_up_indexes_of_pipelines_are_told_or_refused(tmp_path: Path, index: object, named: object) -> None:
    (tmp_path / "unet").mkdir(exist_ok=True)
    paths = write_header(tmp_path / "unet" / "model.safetensors", {"x": (1,)})
    content = index if not isinstance(index, dict) else {**index, "_class_name": "StableDiffusionPipeline", "unet": named}
    for name, written in {"model_index.json": content, "unet/config.json": named}.items():
        (tmp_path / name).write_text(json.dumps(written))
        paths[name] = tmp_path / name
    look({"unet/diffusion_pytorch_model.safetensors": paths.pop("model.safetensors"), **paths})


HOSTILE: dict[str, Callable[[], Shapes]] = {
    "many layers": lambda: {f"{UNET}input_blocks.{number}.0.out_layers.3.weight": (0, 1 << 40) for number in range(8_000)},
    "long numbers": lambda: {
        f"{UNET}input_blocks.1.0.out_layers.3.weight": (8, 8, 3, 3),
        f"{UNET}transformer_blocks.{'9' * 5000}.x": (1,),
    },
    "a long name": lambda: {f"down_blocks.0.motion_modules.0.norm.weight{'.x' * 500_000}": (1,)},
    "wide": lambda: dict.fromkeys(tiny_forms()["checkpoint"], (1 << 50, 0)),
    "no dimensions": lambda: dict.fromkeys(tiny_forms()["checkpoint"], ()),
    "adapter without dimensions": lambda: dict.fromkeys(tiny_forms()["adapter"], ()),
    "vae without dimensions": lambda: dict.fromkeys(tiny_forms()["vae"], ()),
    "words of four dimensions": lambda: {**tiny_forms()["checkpoint"], EMBEDDING: (0, 0, 0, 0)},
    "one dimension": lambda: dict.fromkeys(tiny_forms()["checkpoint"], (1,)),
}


@pytest.mark.parametrize("shapes", HOSTILE.values(), ids=HOSTILE)
def test_hostile_headers_are_refused_in_little_memory(tmp_path: Path, shapes: Callable[[], Shapes]) -> None:
    paths = write_header(tmp_path / "model.safetensors", shapes())
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointUnusable):
            inspect(paths, ImportParams(model_id="x", source="x"))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < MEMORY
