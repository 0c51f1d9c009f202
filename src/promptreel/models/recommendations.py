"""Which models can be run, and with what, for `promptreel models families`."""

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
    Recommended(
        name="wan",
        models="Wan 2.1 T2V 1.3B",
        base="wan21-1.3b",
        memory="15 GB (GPU), 29 GB (CPU)",
        scheduler="UniPCMultistepScheduler",
        steps="50",
        guidance="5",
    ),
    Recommended(
        name="wan",
        models="Wan 2.2 TI2V 5B",
        base="wan22-5b",
        memory="24 GB (GPU), 46 GB (CPU)",
        scheduler="UniPCMultistepScheduler",
        steps="50",
        guidance="5",
    ),
    Recommended(
        name="wan",
        models="Wan 2.1 T2V and I2V 14B",
        base="wan21-14b",
        memory="41-47 GB (GPU), 81-92 GB (CPU)",
        scheduler="UniPCMultistepScheduler",
        steps="50, I2V 40",
        guidance="5",
    ),
    Recommended(
        name="wan",
        models="Wan 2.2 T2V and I2V A14B, of two experts",
        base="wan21-14b",
        memory="70 GB (GPU), 139 GB (CPU)",
        scheduler="UniPCMultistepScheduler",
        steps="40",
        guidance="4 and 3, I2V 3.5",
    ),
)
