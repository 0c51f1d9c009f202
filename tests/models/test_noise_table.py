from __future__ import annotations

from pathlib import Path

import pytest

from promptreel.errors import CheckpointUnusable
from promptreel.models.noise_table import read_noise_table
from tests.models.checkpoints import SCHEDULER, card_of, change_json, make_card, make_checkpoint

STABLE_DIFFUSION = {"_class_name": "PNDMScheduler", "beta_schedule": "scaled_linear", "skip_prk_steps": True}


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return make_checkpoint(tmp_path / "checkpoint")


def read(checkpoint: Path) -> dict:
    return read_noise_table(checkpoint / "scheduler" / "scheduler_config.json", card_of(checkpoint))


def change(checkpoint: Path, **fields: object) -> None:
    change_json(checkpoint / "scheduler" / "scheduler_config.json", **fields)


def test_table_of_the_schedulers_file_is_taken_where_it_is_no_guess(checkpoint):
    assert read(checkpoint) == {name: value for name, value in SCHEDULER.items() if name != "clip_sample"}


def test_stable_diffusions_table_is_refused_until_the_card_says_which(checkpoint):
    """The motion adapters v1 to v3 were trained on linear betas, whatever the image checkpoint's file says."""
    change(checkpoint, **STABLE_DIFFUSION)

    with pytest.raises(
        CheckpointUnusable, match=r'Write into promptreel\.json "beta_schedule": "linear", which AnimateDiff'
    ) as caught:
        read(checkpoint)
    assert '"scaled_linear" if this one was' in caught.value.message


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_card_says_which_table_the_motion_adapter_needs(checkpoint, schedule):
    change(checkpoint, **STABLE_DIFFUSION, trained_betas=[0.1, 0.2])
    make_card(checkpoint, beta_schedule=schedule)

    table = read(checkpoint)
    assert (table["beta_schedule"], table["beta_start"], table["beta_end"]) == (schedule, 0.00085, 0.012)
    assert "trained_betas" not in table


@pytest.mark.parametrize(
    "fields",
    [
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": [0.1, 0.2, 0.3]},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "use_dynamic_shifting": False},
        {"beta_schedule": "scaled_linear", "use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    ],
)
def test_other_tables_pass(checkpoint, fields):
    change(checkpoint, **fields)

    assert read(checkpoint)


@pytest.mark.parametrize(
    "fields",
    [
        {"num_train_timesteps": 10**9},
        {"num_train_timesteps": 1},
        {"beta_start": float("nan")},
        {"beta_end": float("nan")},
        {"beta_end": 1.0},
        {"beta_start": 0},
        {"trained_betas": [float("nan")] * 9},
        {"trained_betas": [0.001] * 10_001},
        {"trained_betas": []},
        {"beta_schedule": "sigmoid"},
        {"prediction_type": "sample"},
        {"use_dynamic_shifting": True},
        {"invert_sigmas": True},
        {"shift": 0},
        {"shift": float("inf")},
        {"_class_name": "os.system"},
        {"_class_name": None},
    ],
)
def test_table_that_no_sampler_can_follow_is_refused_by_field(checkpoint, fields):
    change(checkpoint, **fields)

    with pytest.raises(CheckpointUnusable, match=rf"^scheduler/scheduler_config\.json cannot be used: {next(iter(fields))}"):
        read(checkpoint)


@pytest.mark.parametrize(
    "fields",
    [{"beta_start": 0.5, "beta_end": 0.9}, {"beta_start": 0.02, "beta_end": 0.001}, {"trained_betas": [0.9] * 50}],
)
def test_table_that_falls_or_leaves_nothing_is_refused(checkpoint, fields):
    change(checkpoint, **fields)

    with pytest.raises(CheckpointUnusable, match="falls, or that leaves nothing"):
        read(checkpoint)
