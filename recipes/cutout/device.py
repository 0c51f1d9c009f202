"""Where to train: the same commands run on a CPU or a CUDA device."""

from __future__ import annotations

import torch


def pick_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast(device: torch.device) -> torch.autocast:
    """bf16 for the matrix work, on either device."""
    return torch.autocast(device.type, torch.bfloat16)
