"""The noise table that a checkpoint was trained on, from its scheduler's file and its card.

The table belongs to the motion modules. AnimateDiff's versions 1 to 3 (Guo et al. 2023) were trained on linear betas from
0.00085 to 0.012, whose last sigma is 25.1. But the scheduler's file of the Stable Diffusion checkpoint beside them says
`scaled_linear`, whose last sigma is 14.6. No file says which of the two a motion adapter needs. So the card of a folder that
holds both must; a motion adapter that is a model of its own has the linear one unless its card says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from promptreel.errors import CheckpointUnusable
from promptreel.models.card_fields import CARD_NAME
from promptreel.models.json_files import read_model
from promptreel.models.registry import ModelCard

Beta = Annotated[float, Field(gt=0, lt=1)]
Shift = Annotated[float, Field(ge=1e-3, le=1e3)]
MAX_STEPS = 10_000
NAME = "scheduler/scheduler_config.json"
ADAPTER_SCHEDULE = "linear"
ADAPTER_TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
"""AnimateDiff's, versions 1 to 3. Its Lightning and LCM adapters were distilled from them."""
# Samplers divide by the last step's signal. diffusers' own bound for a last step of pure noise.
_LEAST_SIGNAL = 2.0**-24


class NoiseTable(BaseModel):
    """The keys of scheduler_config.json that describe the training. Each request chooses how to sample."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)

    class_name: str = Field(alias="_class_name", pattern=r"^[A-Z][A-Za-z0-9]{0,99}Scheduler$")
    num_train_timesteps: Annotated[int, Field(ge=2, le=MAX_STEPS)] | None = None
    beta_start: Beta | None = None
    beta_end: Beta | None = None
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] | None = None
    trained_betas: Annotated[tuple[Beta, ...], Field(min_length=2, max_length=MAX_STEPS)] | None = None
    rescale_betas_zero_snr: bool | None = None
    prediction_type: Literal["epsilon", "v_prediction", "flow_prediction"] | None = None
    use_flow_sigmas: bool | None = None
    use_dynamic_shifting: Literal[False] | None = None
    invert_sigmas: Literal[False] | None = None
    shift: Shift | None = None
    flow_shift: Shift | None = None

    @property
    def is_flow(self) -> bool:
        by_class = self.class_name.startswith("FlowMatch")
        return by_class or bool(self.use_flow_sigmas) or self.prediction_type == "flow_prediction"


def read_noise_table(file: Path, card: ModelCard) -> dict[str, Any]:
    """The keys that the scheduler's file sets, with the card's correction.

    Raises CheckpointUnusable for a table that cannot be sampled from, and if only a guess could choose the table.
    """
    table = read_model(file, NAME, NoiseTable)
    if card.beta_schedule is not None:
        table = table.model_copy(update={"beta_schedule": card.beta_schedule, "trained_betas": None})
    elif table.beta_schedule == "scaled_linear" and table.trained_betas is None and not table.is_flow:
        raise CheckpointUnusable(
            f'{NAME} says "beta_schedule": "scaled_linear", as pictures were trained; the motion adapter may need another. '
            f'Write into {CARD_NAME} "beta_schedule": "linear", which AnimateDiff\'s adapters v1 to v3 were trained on, '
            'or "scaled_linear" if this one was. See docs/models.md.'
        )
    if not table.is_flow:
        _check_signal(table)
    return table.model_dump(by_alias=True, exclude_none=True)


def has_own_table(file: Path) -> bool:
    """Whether a scheduler's file says another table than that of Stable Diffusion's pictures. Raises CheckpointUnusable."""
    table = read_model(file, NAME, NoiseTable)
    return table.is_flow or table.trained_betas is not None or table.beta_schedule != "scaled_linear"


def table_of_adapter(file: Path | None, beta_schedule: str | None, *, predicts_v: bool = False) -> dict[str, Any]:
    """The table of a motion adapter that is a model of its own: AnimateDiff's, unless `beta_schedule` says otherwise.

    Only what the UNet predicts comes from the image checkpoint: from its file, or from `predicts_v` if it has none. Raises
    CheckpointUnusable.
    """
    told = None if file is None else read_model(file, NAME, NoiseTable)
    table = {"_class_name": "DDIMScheduler", **ADAPTER_TABLE, "beta_schedule": beta_schedule or ADAPTER_SCHEDULE}
    predicts = "v_prediction" if predicts_v else told.prediction_type if told else None
    return {**table, "prediction_type": predicts or "epsilon"}


def _check_signal(table: NoiseTable) -> None:
    """Each step must leave less signal than the one before, and the last one some."""
    if table.rescale_betas_zero_snr or table.beta_schedule == "squaredcos_cap_v2":
        return  # these end at pure noise by design
    betas = _betas_of(table)
    if betas[-1] < betas[0] or math.fsum(math.log1p(-beta) for beta in betas) < math.log(_LEAST_SIGNAL):
        raise CheckpointUnusable(
            f"{NAME} has a noise table that falls, or that leaves nothing of the picture. Copy the original file there."
        )


def _betas_of(table: NoiseTable) -> Sequence[float]:
    if table.trained_betas is not None:
        return table.trained_betas
    start, end, steps = table.beta_start or 0.0001, table.beta_end or 0.02, table.num_train_timesteps or 1000
    if table.beta_schedule == "scaled_linear":
        return [beta**2 for beta in _spread(math.sqrt(start), math.sqrt(end), steps)]
    return _spread(start, end, steps)


def _spread(start: float, end: float, steps: int) -> list[float]:
    return [start + (end - start) * step / (steps - 1) for step in range(steps)]
