"""All samplers, by the scheduler names in requests."""

from __future__ import annotations

from promptreel.generation.samplers.ddim_inverse import sample_ddim_inverse
from promptreel.generation.samplers.ipndm import sample_ipndm
from promptreel.generation.samplers.karras_ve import sample_karras_ve
from promptreel.generation.samplers.lcm import sample_lcm
from promptreel.generation.samplers.sampler import Sample
from promptreel.generation.samplers.score_sde_ve import sample_score_sde_ve
from promptreel.generation.samplers.stock import stock_samplers


def all_samplers() -> dict[str, Sample]:
    """A sampler for each name in `jobs/params.py: SCHEDULERS`."""
    return stock_samplers() | {
        "DDIMInverseScheduler": sample_ddim_inverse,
        "IPNDMScheduler": sample_ipndm,
        "KarrasVeScheduler": sample_karras_ve,
        "ScoreSdeVeScheduler": sample_score_sde_ve,
        "LCMScheduler": sample_lcm,
    }
