"""What torch, numpy, Pillow and PyAV say of too little memory and of a lost device, and what it is called here."""

from __future__ import annotations

import errno
from dataclasses import replace

import av
import numpy as np
import pytest
import torch

from promptreel.errors import CheckpointUnusable, DeviceLost, EncodingFailed, GenerationFailed, JobCancelled, OutOfMemory
from promptreel.generation.engine import Engine
from promptreel.generation.failures import has_lost_device, is_out_of_memory, named_arithmetic_failures, named_failures
from tests.generation.test_animatediff import PARAMS, go_on

# More than any machine has, and as much as an address can tell of.
PETABYTE = 1 << 50
# As torch 2.13 words them: `CUDA error: `, what CUDA calls the error, where to read of it, and advice.
CUDA = (
    "CUDA error: {}\nSearch for `{}' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html "
    "for more information.\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace "
    "below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)
LOST = {
    "cudaErrorAssert": "device-side assert triggered",
    "cudaErrorIllegalAddress": "an illegal memory access was encountered",
    "cudaErrorECCUncorrectable": "uncorrectable ECC error encountered",
    "cudaErrorLaunchFailure": "unspecified launch failure",
    "cudaErrorLaunchTimeout": "the launch timed out and was terminated",
    "cudaErrorIllegalInstruction": "an illegal instruction was encountered",
    "cudaErrorMisalignedAddress": "misaligned address",
    "cudaErrorInvalidAddressSpace": "operation not supported on global/shared address space",
    "cudaErrorUnknown": "unknown error",
}
GOES_ON = {
    "cudaErrorMemoryAllocation": "out of memory",
    "cudaErrorInvalidConfiguration": "invalid configuration argument",
    "cudaErrorNoKernelImageForDevice": "no kernel image is available for execution on the device",
}


def too_large_for_torch() -> None:
    torch.empty(PETABYTE, dtype=torch.uint8)


def too_large_for_numpy() -> None:
    np.empty(PETABYTE, np.uint8)


def say(error: Exception) -> None:
    raise error


def hidden_behind(kind: type[Exception]) -> None:
    try:
        too_large_for_torch()
    except RuntimeError as error:
        raise kind("Unable to load weights from checkpoint file") from error


OF_MEMORY = {
    "torch on a CPU": too_large_for_torch,
    "torch on Windows": lambda: say(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.")),
    "torch on a GPU": lambda: say(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 66.00 MiB.")),
    "CUDA itself": lambda: say(torch.AcceleratorError(CUDA.format("out of memory", "cudaErrorMemoryAllocation"))),
    "cuBLAS": lambda: say(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
    "C++": lambda: say(RuntimeError("std::bad_alloc")),
    "numpy": too_large_for_numpy,
    "PyAV": lambda: say(av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory", "out.mp4")),
    "Pillow": lambda: say(OSError("out of memory error when reading image file")),
    "a file that is mapped": lambda: say(OSError(errno.ENOMEM, "Cannot allocate memory")),
    "diffusers while loading": lambda: hidden_behind(OSError),
    "a loader of ours": lambda: hidden_behind(CheckpointUnusable),
    "an encoder of ours": lambda: hidden_behind(EncodingFailed),
}


@pytest.mark.parametrize("fail", OF_MEMORY.values(), ids=OF_MEMORY)
def test_too_little_memory_has_one_name(fail: object) -> None:
    with (
        pytest.raises(OutOfMemory, match="6 frames of 32x24 by the model 'tiny': ask for fewer frames"),
        named_failures(PARAMS),
    ):
        fail()  # type: ignore[operator]


@pytest.mark.parametrize(
    "error",
    [
        *(torch.AcceleratorError(CUDA.format(words, name)) for name, words in LOST.items()),
        RuntimeError("CUDA error: an illegal memory access was encountered"),  # as before there was AcceleratorError
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(...)`"),
        RuntimeError("CUDA driver error: unspecified launch failure"),
        torch.AcceleratorError("HIP error: unspecified launch failure"),
    ],
    ids=lambda error: str(error).split("\n")[0],
)
def test_what_poisons_the_device_is_a_lost_device(error: Exception) -> None:
    with pytest.raises(DeviceLost, match="before this process has ended"), named_arithmetic_failures(PARAMS):
        raise error


@pytest.mark.parametrize(("name", "words"), GOES_ON.items())
def test_what_the_device_gets_over_loses_no_device(name: str, words: str) -> None:
    assert not has_lost_device(torch.AcceleratorError(CUDA.format(words, name)))


def test_other_failures_keep_their_names() -> None:
    for error in (CheckpointUnusable("the prompt says: out of memory"), JobCancelled(), KeyError("out of memory")):
        with pytest.raises(type(error)), named_arithmetic_failures(PARAMS):
            raise error
    with pytest.raises(GenerationFailed, match="shapes do not match"), named_arithmetic_failures(PARAMS):
        raise RuntimeError("shapes do not match")
    assert not is_out_of_memory(ValueError("not enough memory"))


@pytest.mark.parametrize("place", ["unet", "text_encoder", "vae.decoder"])
def test_too_little_memory_in_any_part_has_the_same_name(engine: Engine, place: str) -> None:
    checkpoint = engine.load("tiny")
    parts = {"unet": checkpoint.unet, "text_encoder": checkpoint.prompts.text_encoder, "vae.decoder": checkpoint.vae.decoder}
    parts[place].register_forward_pre_hook(lambda *_: too_large_for_torch())

    with pytest.raises(OutOfMemory):
        engine.generate(replace(PARAMS, prompt="never encoded"), go_on)
