"""Where to train and with which kernels: the same commands run on a CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def mixed_precision(device: torch.device) -> Iterator[None]:
    """bf16 for the matrix work. On a CPU attention is spelled out: over 36 tokens, the fused kernel's backward takes ten times
    as long."""
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, torch.bfloat16))
        if device.type == "cpu":
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield
