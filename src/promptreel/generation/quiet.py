"""What the libraries tell those who write scripts with them has no place in a service's log."""

from __future__ import annotations

import diffusers
import transformers


def quiet_libraries() -> None:
    diffusers.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
