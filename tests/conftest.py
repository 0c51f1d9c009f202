"""For all tests: the settings of the shell that runs them stay outside, and numerical libraries take one thread."""

from __future__ import annotations

import os

import pytest

THREADS = "1"


def pytest_configure(config: pytest.Config) -> None:
    for name in [name for name in os.environ if name.startswith("PROMPTREEL_")]:
        del os.environ[name]
    # Read when torch is imported, here and in the processes that tests start.
    os.environ["OMP_NUM_THREADS"] = THREADS
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ["HF_HUB_OFFLINE"] = "1"
    # diffusers hands tensors to numpy in a way that numpy 2 will give up; thousands of lines, and no mistake of ours.
    config.addinivalue_line("filterwarnings", "ignore:__array:DeprecationWarning")
    # modelslab-py, which is tested as it is, was written for pydantic 1.
    for beginning in ("Support for class-based `config`", "`json_encoders` is deprecated", "The `dict` method is deprecated"):
        config.addinivalue_line("filterwarnings", f"ignore:{beginning}:DeprecationWarning")
