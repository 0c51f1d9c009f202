"""Translates other libraries' errors: out of memory is OutOfMemory, a broken device is DeviceLost.

torch reports too little memory in at least five ways; on a CPU it is a plain RuntimeError, recognizable by its message alone.
numpy, Pillow and PyAV have errors of their own, and other libraries wrap them all.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from promptreel.errors import DeviceLost, GenerationFailed, OutOfMemory, PromptreelError
from promptreel.jobs.params import VideoParams

_TELLS_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "bad_alloc",
    "bad allocation",
    "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED and cuDNN's alike
)
_TELLS_OF_DEVICE = (
    "cuda error:",
    "cuda driver error:",
    "hip error:",
    "status_execution_failed",  # of cuBLAS and cuDNN
    "status_internal_error",
    "status_mapping_error",
)
# After these the device still works: it refused the call and ran nothing.
_DEVICE_GOES_ON = (
    "invalid argument",
    "invalid configuration argument",
    "invalid device function",
    "no kernel image is available",
    "too many resources requested",
    "operation not supported",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error, or one that caused it, is too little memory on the device or the machine."""
    return any(_tells_of_memory(each) for each in _chain(error))


def has_lost_device(error: BaseException) -> bool:
    """Whether every later call to the device will fail too, so that only a new process can use it.

    CUDA does this after any failure inside a kernel or in the hardware: an assertion, an illegal address, a memory error.
    Unknown CUDA errors count as such; the job keeps its other lives.
    """
    return any(_tells_of_lost_device(each) for each in _chain(error))


@contextmanager
def named_failures(params: VideoParams) -> Iterator[None]:
    """Turns the block's errors into OutOfMemory or DeviceLost where they are that; raises others unchanged."""
    try:
        yield
    except (OutOfMemory, DeviceLost):
        raise
    except Exception as error:
        if has_lost_device(error):
            raise DeviceLost(
                "The device failed, and no other job can use it before this process has ended. "
                "If it does so again, look into the system's log, and update the device's driver."
            ) from error
        if is_out_of_memory(error):
            raise OutOfMemory(
                f"There is too little memory for {params.num_frames} frames of {params.width}x{params.height} "
                f"by the model {params.model_id!r}: ask for fewer frames or a smaller size."
            ) from error
        raise


@contextmanager
def named_arithmetic_failures(params: VideoParams) -> Iterator[None]:
    """Like `named_failures`; torch's other errors become GenerationFailed."""
    try:
        with named_failures(params):
            yield
    except PromptreelError:
        raise
    except RuntimeError as error:
        raise GenerationFailed(f"the model {params.model_id!r} could not make this clip: {error}") from error


def _tells_of_memory(error: BaseException) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return _is_foreign(error) and _holds(error, _TELLS_OF_MEMORY)


def _tells_of_lost_device(error: BaseException) -> bool:
    if _tells_of_memory(error) or not isinstance(error, RuntimeError):
        return False
    if _holds(error, _DEVICE_GOES_ON) and "address space" not in str(error):
        return False
    return isinstance(error, torch.AcceleratorError) or _holds(error, _TELLS_OF_DEVICE)


def _is_foreign(error: BaseException) -> bool:
    """Whether another library wrote the message. Ours may quote a request's words."""
    return isinstance(error, (RuntimeError, OSError)) and not isinstance(error, PromptreelError)


def _holds(error: BaseException, words: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(word in text for word in words)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, its cause, the cause's cause, and so on."""
    seen: set[int] = set()
    next_one: BaseException | None = error
    while next_one is not None and id(next_one) not in seen:
        seen.add(id(next_one))
        yield next_one
        next_one = next_one.__cause__ or next_one.__context__
