"""What other libraries' failures are called here: too little memory has one name, wherever it is met, a lost device another.

torch tells of too little memory in at least five ways: on a CPU as a plain RuntimeError, which only its words give away; numpy,
Pillow and PyAV have ways of their own; and libraries in between hide all of them behind errors of theirs.
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
# After these the device goes on: what was asked was refused, and nothing has run.
_DEVICE_GOES_ON = (
    "invalid argument",
    "invalid configuration argument",
    "invalid device function",
    "no kernel image is available",
    "too many resources requested",
    "operation not supported",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was too little memory, of the device or of the machine, at the bottom of this error."""
    return any(_tells_of_memory(each) for each in _chain(error))


def has_lost_device(error: BaseException) -> bool:
    """Whether the device answers every later call with this error too, so that only a new process can use it again.

    CUDA says so of all that goes wrong inside a kernel or in the hardware (an assertion, an address that is not there, memory
    that does not hold what was written). What is not known counts as such: the job then has its other lives.
    """
    return any(_tells_of_lost_device(each) for each in _chain(error))


@contextmanager
def named_failures(params: VideoParams) -> Iterator[None]:
    """Inside the block, too little memory is OutOfMemory, and a lost device is DeviceLost, whatever they were called."""
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
    """As `named_failures`; whatever else torch says is GenerationFailed."""
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
    """Whether its words are another library's. A request's own words may stand in ours."""
    return isinstance(error, (RuntimeError, OSError)) and not isinstance(error, PromptreelError)


def _holds(error: BaseException, words: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return any(word in text for word in words)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    seen: set[int] = set()
    next_one: BaseException | None = error
    while next_one is not None and id(next_one) not in seen:
        seen.add(id(next_one))
        yield next_one
        next_one = next_one.__cause__ or next_one.__context__
