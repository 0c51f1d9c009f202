"""A recipe: how a worker does jobs of one kind.

Claim, lease, fence, attempts, cancel, webhook and fairness are not its business: they are the same for all kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from promptreel.jobs.job import Claim, Job, OnProgress, Result
from promptreel.jobs.kinds import Params

ParamsT_contra = TypeVar("ParamsT_contra", bound=Params, contravariant=True)


class Recipe(Protocol[ParamsT_contra]):
    """Jobs of several threads use it at once."""

    def estimate_bytes(self, params: ParamsT_contra) -> int:
        """Memory that such a job takes of its own, at most. A worker takes no more jobs beside each other than fit."""

    def run(
        self, job: Job[ParamsT_contra], claim: Claim, *, on_progress: OnProgress, time_shared: Callable[[], float]
    ) -> Result:
        """Does the job and stores what it made, under a key that names the attempt: no two attempts ever share a file.

        `on_progress` is called often: by it the job hears that it must stop. `time_shared` tells the seconds that the job is
        charged with, for the facts of the result; `busy_seconds` must be among them.
        """
