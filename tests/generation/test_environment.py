"""What torch and its libraries read when they are imported is set by then, whichever module of ours imports them first."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

READ = """
import gc
gc.disable()  # otherwise the imports take a fifth longer
import {first}
import diffusers.utils.dynamic_modules_utils, huggingface_hub.constants
print(huggingface_hub.constants.HF_HUB_OFFLINE, diffusers.utils.constants.DIFFUSERS_DISABLE_REMOTE_CODE)
"""


@pytest.mark.slow
def test_environment_is_set_before_torch_is_imported() -> None:
    """But for what somebody has set; tests/flows/test_one_service.py sees what OpenMP reads if nobody has."""
    environment = {**os.environ, "OMP_DISPLAY_ENV": "verbose", "HF_HUB_OFFLINE": "0", "GOMP_SPINCOUNT": "77"}
    environment.pop("OMP_WAIT_POLICY", None)
    code = READ.format(first="promptreel.worker.worker")
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)

    assert ran.stdout.split() == ["True", "True"]
    assert "GOMP_SPINCOUNT = '77'" in ran.stderr
