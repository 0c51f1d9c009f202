"""Silences the libraries' warnings and progress bars, which are meant for scripts."""

from __future__ import annotations

import diffusers
import transformers


def quiet_libraries() -> None:
    diffusers.logging.set_verbosity_error()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
