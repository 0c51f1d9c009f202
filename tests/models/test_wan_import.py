"""Wan's repositories as a hub has them: what an import finds out from their files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from promptreel.errors import CheckpointUnusable, InvalidParams
from promptreel.importing.choosing import choose_files
from promptreel.jobs.import_params import ImportParams
from promptreel.models.card_fields import read_card_fields
from promptreel.models.inspection import Inspected, inspect
from promptreel.models.kinds import ModelKind
from tests.models.checkpoints import change_json
from tests.models.wan_checkpoints import KINDS, PLAIN, make_wan

# The hub's other files.
MORE = (".gitattributes", "assets/logo.png", "examples/i2v_input.JPG", "tokenizer/spiece.model", "README.md")
T2V = {"max_frames": 81, "fps": 16}
CARDS: dict[str, dict[str, Any]] = {
    "Wan2.1-T2V-1.3B": T2V,
    "Wan2.1-I2V-14B-480P": T2V | {"default_steps": 40},
    "Wan2.2-TI2V-5B": {"max_frames": 121, "fps": 24},
    "Wan2.2-T2V-A14B": T2V | {"default_steps": 40, "default_guidance": 4.0, "low_noise_guidance": 3.0},
    "Wan2.2-I2V-A14B": T2V | {"default_steps": 40, "default_guidance": 3.5, "low_noise_guidance": 3.5},
}


def import_folder(folder: Path, **card: object) -> Inspected:
    """With the files that are chosen, as `promptreel models add` does."""
    (folder / "promptreel.json").unlink()
    for name in MORE:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not opened")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    chosen = choose_files(names, None, of="the repository")
    assert not {*MORE} & {*chosen}
    paths = {name: folder / name for name in chosen}
    return inspect(paths, ImportParams(model_id="wan", source="wan", card=card), reads_weights=True)


@pytest.mark.parametrize("kind", KINDS)
def test_repository_is_imported_without_moving_a_file(tmp_path: Path, kind: str) -> None:
    found = import_folder(make_wan(tmp_path / "wan", kind))

    assert (found.kind, found.family) == (ModelKind.CHECKPOINT, "wan")
    assert found.base == ("wan22-12" if kind == "Wan2.2-TI2V-5B" else "wan21-12")
    assert found.card == {"has_motion": True} | CARDS[kind]


def test_importer_may_say_otherwise(tmp_path: Path) -> None:
    found = import_folder(make_wan(tmp_path / "wan", "Wan2.2-T2V-A14B"), max_frames=49, default_guidance=6.0)

    assert found.card == {"has_motion": True} | CARDS["Wan2.2-T2V-A14B"] | {"max_frames": 49, "default_guidance": 6.0}


@pytest.mark.parametrize(("sent", "kept"), [("5", 5.0), (3, 3.0), ("by_size", "by_size")])
def test_shift_is_a_number_or_goes_by_size(sent: object, kept: object) -> None:
    assert read_card_fields({"flow_shift": sent}).given == {"flow_shift": kept}
    with pytest.raises(InvalidParams, match="flow shift"):
        read_card_fields({"flow_shift": "by_weather"})


def test_what_the_gate_refuses_is_not_imported(tmp_path: Path) -> None:
    folder = make_wan(tmp_path / "wan")
    change_json(folder / "transformer" / "config.json", num_layers=2)

    with pytest.raises(CheckpointUnusable, match=r"transformer/: its weights do not fit its config\.json"):
        import_folder(folder)
    assert (folder / "transformer" / PLAIN).exists()
