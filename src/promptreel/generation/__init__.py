"""VideoParams in, Clip out.

Sets the environment variables that torch and its libraries read on import. Only this package imports torch, and Python
imports this file before any of its modules, so the variables are always set in time.
"""

from __future__ import annotations

import os

# Never fetch from a model hub; never run a checkpoint's code.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DIFFUSERS_DISABLE_REMOTE_CODE"] = "1"
# OpenMP threads spin for a fraction of a millisecond at a barrier, then sleep. OpenMP's default is a hundred times longer, and
# makes a forward take 25 times as long when another process takes a core (ADR 9).
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
