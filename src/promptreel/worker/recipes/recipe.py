"""A recipe: how a worker does jobs of one kind.

Claims, leases, fences, cancellation, webhooks and fairness are the same for all kinds, so recipes do not deal with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol, TypeVar

from promptreel.jobs.job import Claim, Job, OnProgress, Result
from promptreel.jobs.kinds import Params

ParamsT_contra = TypeVar("ParamsT_contra", bound=Params, contravariant=True)


class Recipe(Protocol[ParamsT_contra]):
    """Used by several threads at once. `uses_device`: whether the worker's device computes for such jobs. Jobs that do not use
    it run beside any others, one at a time.
    """

    uses_device: ClassVar[bool]

    def estimate_bytes(self, params: ParamsT_contra) -> int:
        """The most memory that such a job takes for itself. A worker runs only as many jobs at once as fit."""

    def run(
        self, job: Job[ParamsT_contra], claim: Claim, *, on_progress: OnProgress, time_shared: Callable[[], float]
    ) -> Result:
        """Does the job and stores its result. The key includes the attempt, so that no two attempts share a file.

        Must call `on_progress` often, because it raises when the job must stop. `time_shared` is the clock for the result's
        facts (SharedTime.now); `busy_seconds` must be one of them.
        """
