"""Which device and number format to generate with."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Device:
    """Where the models run, and in which number format. The samplers always compute in float32 on the CPU."""

    name: str
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.name} ({str(self.dtype).removeprefix('torch.')})"


def pick_device(name: str | None = None) -> Device:
    """The named device ("cpu", "cuda", "cuda:1"), or CUDA if there is any; bf16 where the hardware multiplies it."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        return Device(name, choose_cuda_format(torch.cuda.get_device_capability(name), is_amd=torch.version.hip is not None))
    return Device(name, torch.bfloat16 if _cpu_multiplies_bf16() else torch.float32)


@dataclass(frozen=True)
class TorchBuild:
    """What the installed torch was built for, and whether it finds a GPU."""

    version: str
    platform: str
    """Such as "CUDA 13.0", or "CPU"."""
    finds_gpu: bool


def look_at_torch() -> TorchBuild:
    version, hip, cuda = str(torch.__version__), torch.version.hip, torch.version.cuda
    platform = f"ROCm {hip}" if hip else f"CUDA {cuda}" if cuda else "CPU"
    return TorchBuild(version, platform, finds_gpu=torch.cuda.is_available())


def try_devices() -> dict[str, str | None]:
    """Each device's description, with the error if it cannot compute."""
    tried = {str(pick_device("cpu")): _try("cpu")}
    for number in range(torch.cuda.device_count()):
        name = f"cuda:{number}"
        of_card = torch.cuda.get_device_properties(number)
        tried[f"{pick_device(name)}, {of_card.name}, {of_card.total_memory / 1e9:.0f} GB"] = _try(name)
    return tried


def _try(name: str) -> str | None:
    try:
        ones = torch.ones(8, 8, device=name, dtype=pick_device(name).dtype)
        (ones @ ones).sum().item()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return None


def device_memory(device: Device) -> int | None:
    """Bytes of the GPU's own memory; None on a CPU."""
    return torch.cuda.get_device_properties(device.name).total_memory if device.name.startswith("cuda") else None


def choose_cuda_format(capability: tuple[int, int], *, is_amd: bool) -> torch.dtype:
    """bf16 from Ampere on (compute capability 8.0), else fp16. Earlier cards only emulate bf16, though torch reports it."""
    return torch.bfloat16 if is_amd or capability >= (8, 0) else torch.float16


def _cpu_multiplies_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
