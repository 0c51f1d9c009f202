"""Which models can be run, and with what: for `promptreel models families` and docs/models.md."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Recommended:
    """`memory`: of the weights, in float16 on a GPU and in float32 on a CPU. `steps` and `guidance`: what it was made for."""

    name: str
    models: str
    base: str
    memory: str
    scheduler: str
    steps: str
    guidance: str


RECOMMENDED = (
    Recommended(
        name="animatediff",
        models="Stable Diffusion 1.5 with AnimateDiff v1, v2 or v3",
        base="sd15",
        memory="3 GB (GPU), 6 GB (CPU)",
        scheduler="any",
        steps="20-30",
        guidance="7-8",
    ),
    Recommended(
        name="animatediff",
        models="Stable Diffusion 1.5 with AnimateLCM",
        base="sd15",
        memory="3 GB (GPU), 6 GB (CPU)",
        scheduler="LCMScheduler",
        steps="4-8",
        guidance="1-2",
    ),
    Recommended(
        name="animatediff",
        models="Stable Diffusion 1.5 with AnimateDiff-Lightning",
        base="sd15",
        memory="3 GB (GPU), 6 GB (CPU)",
        scheduler="EulerDiscreteScheduler",
        steps="2, 4 or 8, as its file says",
        guidance="1",
    ),
    Recommended(
        name="animatediff",
        models="cutout, the built-in model",
        base="cutout",
        memory="0.1 GB",
        scheduler="any",
        steps="20",
        guidance="7.5",
    ),
)
