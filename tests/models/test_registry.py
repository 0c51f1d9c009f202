from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import pytest

from promptreel.errors import CheckpointUnusable, InvalidParams, ModelNotFound
from promptreel.models.composition import compose
from promptreel.models.registry import DEFAULT_MODEL_ID, ModelCard, ModelRegistry
from promptreel.models.verification import why_unusable
from tests.models.checkpoints import CARD, change_json, make_card, make_checkpoint

BAD_CARDS = {
    "empty": (b"", "JSON"),
    "list": (b"[]", "object"),
    "not UTF-8": (b"\xff\xfe", "JSON"),
    "misspelled field": (json.dumps(CARD | {"max_frame": 9}).encode(), "max_frame"),
    "missing field": (json.dumps({"name": "x", "family": "animatediff", "fps": 8}).encode(), "max_frames"),
    "text as number": (json.dumps(CARD | {"fps": "8"}).encode(), "fps"),
    "no frames": (json.dumps(CARD | {"max_frames": 0}).encode(), "max_frames"),
    "odd size": (json.dumps(CARD | {"native_width": 500}).encode(), "native_width"),
    "width alone": (json.dumps(CARD | {"native_height": None}).encode(), "native_width and native_height"),
    "phrases as one text": (json.dumps(CARD | {"trigger_words": "mdjrny-v4 style"}).encode(), "trigger_words"),
    "blank phrase": (json.dumps(CARD | {"quality_words": ["sharp focus", " "]}).encode(), "quality_words: 1"),
    "unknown table": (json.dumps(CARD | {"beta_schedule": "cosine"}).encode(), "beta_schedule"),
    "1 MB of negative prompt": (json.dumps(CARD | {"default_negative_prompt": "x" * (1 << 20)}).encode(), "larger than 256 kB"),
    "long negative prompt": (json.dumps(CARD | {"default_negative_prompt": "x" * 2001}).encode(), "default_negative_prompt"),
    "a book of phrases": (json.dumps(CARD | {"quality_words": ["x" * 199] * 11}).encode(), ".*2000 characters together"),
    "many misspelled fields": (json.dumps(CARD | {"y" * 99 + str(i): 0 for i in range(999)}).encode(), "and 996 more"),
    "nested without end": (b'{"name": ' + b"[" * 100_000, "JSON"),
    "endless estimate": (
        json.dumps(CARD | {"reference_seconds_per_unit": float("inf")}).encode(),
        "reference_seconds_per_unit",
    ),
}


@pytest.fixture
def built_in(tmp_path) -> Path:
    return make_card(tmp_path / "built_in" / DEFAULT_MODEL_ID, name="Cutout").parent


@pytest.fixture
def models_dir(tmp_path) -> Path:
    return make_card(tmp_path / "models" / "midjourney").parent


@pytest.fixture
def registry(built_in, models_dir) -> ModelRegistry:
    return ModelRegistry(built_in=built_in, models_dir=models_dir)


def test_card_is_read_in_full(registry, models_dir):
    assert registry.get("midjourney") == ModelCard(
        model_id="midjourney",
        name="Midjourney v4 style",
        description="Pictures in the style of mdjrny-v4.",
        family="animatediff",
        path=models_dir / "midjourney",
        native_width=512,
        native_height=512,
        max_frames=16,
        fps=8,
        default_negative_prompt="blurry, watermark",
        trigger_words=("mdjrny-v4 style", "animated"),
        quality_words=("sharp focus",),
        words=frozenset({"cat", "bench"}),
        beta_schedule=None,
        reference_seconds_per_unit=12.5,
    )


def test_short_card_gets_the_documented_defaults(registry, models_dir):
    (models_dir / "short").mkdir()
    (models_dir / "short" / "promptreel.json").write_text(
        '{"name": "Short", "family": "animatediff", "max_frames": 16, "fps": 8}'
    )

    card = registry.get("short")
    assert (card.description, card.default_negative_prompt, card.words) == ("", "", frozenset())
    assert (card.trigger_words, card.quality_words) == ((), ())
    assert (card.native_width, card.native_height, card.reference_seconds_per_unit) == (None, None, None)


def test_list_holds_built_in_and_own_models_by_id(registry):
    assert [card.model_id for card in registry.list()] == ["cutout", "midjourney"]


def test_model_that_is_put_there_later_is_found(registry, models_dir):
    make_card(models_dir / "later")

    assert registry.get("later").model_id == "later"
    assert "later" in [card.model_id for card in registry.list()]


def test_missing_folders_hold_no_models(tmp_path):
    registry = ModelRegistry(built_in=tmp_path / "no", models_dir=tmp_path / "nowhere")

    assert registry.list() == []
    with pytest.raises(ModelNotFound, match="Known models: none"):
        registry.get("cutout")


def test_unknown_model_is_answered_with_the_known_ones(registry):
    with pytest.raises(ModelNotFound, match=r"no model 'sdxl'\. Known models: cutout, midjourney\."):
        registry.get("sdxl")


def test_built_in_model_wins_over_a_namesake(registry, models_dir):
    make_card(models_dir / "cutout", name="Impostor")

    assert registry.get("cutout").name == "Cutout"
    assert [card.name for card in registry.list()] == ["Cutout", "Midjourney v4 style"]


def test_folder_without_a_card_is_no_model(registry, models_dir):
    (models_dir / "half").mkdir()

    with pytest.raises(ModelNotFound):
        registry.get("half")


@pytest.mark.parametrize(
    "model_id",
    ["", ".", "..", "../secret", "models/midjourney", "/", "midjourney/", "./midjourney", "midjourney\0", ".hidden", "a b"],
)
def test_path_in_place_of_an_id_is_not_found(registry, models_dir, model_id):
    make_card(models_dir.parent / "secret")
    make_card(models_dir / ".hidden")
    make_card(models_dir / "a b")

    with pytest.raises(ModelNotFound):
        registry.get(model_id)


def test_absolute_path_is_not_found(registry, models_dir):
    with pytest.raises(ModelNotFound):
        registry.get(str(models_dir / "midjourney"))


@pytest.mark.parametrize(
    ("model_id", "known"), [("a" * 100, True), ("a" * 101, False), ("A.b_c-1", True), ("-a", False), ("ä", False)]
)
def test_ids_are_plain_names_of_100_characters_at_most(registry, models_dir, model_id, known):
    make_card(models_dir / model_id)

    assert (model_id in [card.model_id for card in registry.list()]) == known


@pytest.mark.parametrize(("content", "reason"), BAD_CARDS.values(), ids=BAD_CARDS)
def test_bad_card_is_explained_when_asked_for(registry, models_dir, content, reason):
    (models_dir / "midjourney" / "promptreel.json").write_bytes(content)

    with pytest.raises(CheckpointUnusable, match=rf"^midjourney/promptreel\.json (cannot be used: .*|is ){reason}") as caught:
        registry.get("midjourney")
    assert len(caught.value.message) < 1000


def test_huge_card_is_not_read_and_does_not_stop_the_list(registry, models_dir):
    """Sparse: reading it whole would take a terabyte."""
    with (make_card(models_dir / "huge") / "promptreel.json").open("ab") as card:
        card.truncate(1 << 40)

    assert [card.model_id for card in registry.list()] == ["cutout", "midjourney"]
    with pytest.raises(CheckpointUnusable, match="larger than 256 kB"):
        registry.get("huge")


def test_card_that_is_a_link_to_itself_does_not_stop_the_list(registry, models_dir):
    (models_dir / "loop").mkdir()
    (models_dir / "loop" / "promptreel.json").symlink_to("promptreel.json")

    assert [card.model_id for card in registry.list()] == ["cutout", "midjourney"]


def test_bad_card_is_logged_and_left_out_of_the_list(registry, models_dir, caplog):
    make_card(models_dir / "broken", fps=0)

    with caplog.at_level(logging.WARNING):
        assert [card.model_id for card in registry.list()] == ["cutout", "midjourney"]
    assert "broken/promptreel.json cannot be used: fps" in caplog.text


def test_example_card_in_the_docs_is_usable(registry, models_dir):
    guide = Path(__file__).parents[2] / "docs" / "models.md"
    example = guide.read_text().split("```json\n")[1].split("```")[0]
    (models_dir / "example").mkdir()
    (models_dir / "example" / "promptreel.json").write_text(example)

    assert set(json.loads(example)) == set(CARD)
    assert registry.get("example").family == "animatediff"


@pytest.mark.parametrize(
    ("form", "moves"),
    [
        ("as it is saved", True),
        ("its UNet alone moves", True),
        ("no adapter", False),
        ("one file", False),
        ("nothing", True),
        ("a pipe that nobody writes to", True),
    ],
)
def test_folder_without_motion_modules_is_told_by_its_files(
    registry: ModelRegistry, models_dir: Path, form: str, moves: bool
) -> None:
    folder = models_dir / "mine"
    make_checkpoint(folder)
    match form:
        case "its UNet alone moves":
            change_json(folder / "model_index.json", unet=["diffusers", "UNetMotionModel"], motion_adapter=[None, None])
        case "no adapter":
            shutil.rmtree(folder / "motion_adapter")
        case "one file":
            (folder / "model_index.json").unlink()
        case "a pipe that nobody writes to":
            (folder / "model_index.json").unlink()
            os.mkfifo(folder / "model_index.json")
        case "nothing":
            shutil.rmtree(folder)
            make_card(folder)

    assert registry.get("mine").has_motion is moves


def test_model_of_an_unknown_family_is_told_which_ones_there_are(registry: ModelRegistry, models_dir: Path) -> None:
    make_card(models_dir / "mine", family="svd")

    assert why_unusable(registry.get("mine"), registry) == (
        "model 'mine' is of family 'svd'; Promptreel runs 'animatediff', 'wan'"
    )


def test_folder_with_one_file_needs_a_motion_adapter(registry: ModelRegistry, models_dir: Path) -> None:
    (make_card(models_dir / "mine") / "model.safetensors").write_bytes(b"weights")

    with pytest.raises(InvalidParams, match="'mine' has no motion adapter, so nothing would move"):
        compose(registry, "mine")
