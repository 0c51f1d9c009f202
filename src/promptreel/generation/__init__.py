"""VideoParams in, Clip out.

What torch and its libraries read of the environment when they are imported is set here. No module of this package can be
imported before this one, and only they import torch: no path to it leads around this file, whoever imports what first.
"""

from __future__ import annotations

import os

# Nothing is ever fetched from a model hub, nor run from a checkpoint.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DIFFUSERS_DISABLE_REMOTE_CODE"] = "1"
# Threads that compute together wait for each other awake for no more than a fraction of a millisecond. OpenMP's own bound is a
# hundred times that, and makes a forward 25 times as long whenever another process takes a core (ADR 9).
os.environ.setdefault("GOMP_SPINCOUNT", "3000")
