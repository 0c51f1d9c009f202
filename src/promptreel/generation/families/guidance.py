"""Guidance: how a family turns the outputs for several rows into one prediction."""

from __future__ import annotations

from torch import Tensor

from promptreel.jobs.params import VideoParams


def is_guided(params: VideoParams) -> bool:
    """At a guidance scale of 1 or less, the negative prompt is not computed."""
    return params.guidance_scale > 1


def classifier_free(output: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022): rows (negative, prompt) become one, u + scale * (c - u).

    A single row is returned as it is.
    """
    if len(output) == 1:
        return output
    negative, prompt = output.chunk(2)
    return negative + scale * (prompt - negative)
