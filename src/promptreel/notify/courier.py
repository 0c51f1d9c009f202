"""The courier, a process of its own: delivers webhooks, and ends jobs whose workers are gone."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from promptreel.errors import TEMPORARY, DeliveryLost, JobNotFound, UrlUnusable
from promptreel.fetching.fetcher import SafeFetcher
from promptreel.jobs.deliveries import Delivery, DeliveryClaim, DeliveryStore, Exclusions, Outcome
from promptreel.jobs.job import AnyJob
from promptreel.jobs.store import JobStore
from promptreel.jobs.webhook_secrets import WebhookSecrets
from promptreel.logs import Seldom
from promptreel.notify.backoff import next_attempt
from promptreel.notify.signing import sign

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
SWEEP_SECONDS = 5.0
RETRY_SECONDS = 1.0
AT_ONCE = 256
AT_ONCE_A_RECEIVER = 2
RETRIES_SHARE = 4
"""Each API key's retries may take 1 / this of all places, so that first attempts need not wait for them."""

GONE = 410
"""The HTTP status by which a receiver refuses a delivery for good."""

ToBody = Callable[[AnyJob, str], dict[str, Any]]
"""Makes a webhook's body from a job and the delivery's id, in the dialect of the API that the job was sent to."""


class Courier:
    """Delivers webhooks until `stop` is set, then finishes the attempts under way."""

    def __init__(
        self,
        *,
        owner: str,
        jobs: JobStore,
        deliveries: DeliveryStore,
        secrets: WebhookSecrets,
        fetcher: SafeFetcher,
        to_body: ToBody,
        stop: threading.Event,
        at_once: int = AT_ONCE,
    ) -> None:
        self.owner = owner
        self.jobs = jobs
        self.deliveries = deliveries
        self.secrets = secrets
        self.fetcher = fetcher
        self.to_body = to_body
        self.stop = stop
        self.seldom = Seldom(log)
        self.at_once = at_once
        self.live: list[tuple[Delivery, Future[None]]] = []
        self.has_room = threading.Event()
        self.swept_at = float("-inf")

    def run(self) -> None:
        log.info("courier %s is ready", self.owner)
        with ThreadPoolExecutor(self.at_once, thread_name_prefix="delivery") as threads:
            while not self.stop.is_set():
                try:
                    self.sweep()
                    self.send_due(threads)
                except TEMPORARY as temporary:
                    self.seldom.warning("the courier cannot use the job table: %s", temporary)
                except Exception:  # the database may be unavailable for a while; the courier must survive that
                    log.exception("the courier could not reach the job table")
                self.has_room.wait(POLL_SECONDS)
                self.has_room.clear()
        log.info("courier %s stopped", self.owner)

    def sweep(self) -> None:
        """Every few seconds, ends or requeues the jobs of dead workers, even if no worker is left to claim them."""
        if time.monotonic() - self.swept_at >= SWEEP_SECONDS:
            self.swept_at = time.monotonic()
            if freed := self.jobs.requeue_expired():
                log.warning("%d running job of a worker that fell silent was taken from it", freed)

    def send_due(self, threads: ThreadPoolExecutor) -> None:
        """Starts the attempts that are due, as long as there are free threads."""
        while not self.stop.is_set():
            self.live = [(delivery, future) for delivery, future in self.live if not future.done()]
            if len(self.live) == self.at_once:
                return
            taken = self.deliveries.claim(self.owner, excluded=self._find_exclusions())
            if taken is None:
                return
            future = threads.submit(self.deliver, *taken)
            self.live.append((taken[1], future))
            future.add_done_callback(lambda _: self.has_room.set())

    def _find_exclusions(self) -> Exclusions:
        """Which receivers and API keys must wait, so that hanging receivers do not block those of other keys.

        A key may start more while it has fewer attempts under way than places are free, so some always stay free
        (fetching/shares.py).
        """
        live = [delivery for delivery, _ in self.live]
        free = self.at_once - len(live)
        receivers = Counter((delivery.api_key_id, delivery.host) for delivery in live)
        keys = Counter(delivery.api_key_id for delivery in live)
        retries = Counter(delivery.api_key_id for delivery in live if delivery.attempt > 1)
        return Exclusions(
            receivers=frozenset(receiver for receiver, count in receivers.items() if count >= AT_ONCE_A_RECEIVER),
            keys=frozenset(key for key, count in keys.items() if count >= free),
            retries_of=frozenset(key for key, count in retries.items() if count >= self.at_once // RETRIES_SHARE),
        )

    def deliver(self, claim: DeliveryClaim, delivery: Delivery) -> None:
        """Makes one attempt and records its outcome. Raises nothing: no receiver may stop the courier."""
        try:
            outcome = self._attempt(delivery)
            self._persist(delivery, lambda: self._record(claim, delivery, outcome))
        except (JobNotFound, DeliveryLost) as lost:  # the job was deleted, or another courier took over
            log.info("delivery %s of job %d: %s", delivery.id, delivery.job_id, lost)
        except Exception:  # its lease will expire, and it is tried again
            log.exception("delivery %s of job %d could not be recorded", delivery.id, delivery.job_id)

    def _persist(self, delivery: Delivery, record: Callable[[], None]) -> None:
        """Retries `record` until the job table is usable, so that the receiver is not called twice. Gives up at a stop."""
        while True:
            try:
                record()
            except TEMPORARY as temporary:
                self.seldom.warning("an attempt at delivery %s cannot be recorded yet: %s", delivery.id, temporary)
                if self.stop.wait(RETRY_SECONDS):
                    raise
            else:
                return

    def _attempt(self, delivery: Delivery) -> Outcome:
        started = time.monotonic()
        status, error = None, None
        try:
            status = self._post(delivery)
            error = "Redirects are not followed." if 300 <= status < 400 else None
        except UrlUnusable as unusable:
            error = unusable.message
        except (JobNotFound, *TEMPORARY):
            raise
        except Exception:  # a bug of ours: record a failure, so that the delivery is retried once the bug is fixed
            log.exception("delivery %s of job %d failed unexpectedly", delivery.id, delivery.job_id)
            error = "Something went wrong inside the courier. Its log has the details."
        return Outcome(seconds=round(time.monotonic() - started, 3), status=status, error=error)

    def _post(self, delivery: Delivery) -> int:
        job = self.jobs.get(delivery.job_id)
        body = json.dumps(self.to_body(job, delivery.id), ensure_ascii=False, allow_nan=False).encode()
        signed = sign(self.secrets.of(job.api_key_id), delivery.id, sent_at=self.deliveries.now().wall, body=body)
        return self.fetcher.for_key(delivery.api_key_id).post(
            delivery.url, body, headers={"Content-Type": "application/json", **signed}
        )

    def _record(self, claim: DeliveryClaim, delivery: Delivery, outcome: Outcome) -> None:
        """Records 2xx as delivered and 410 as dead; anything else is retried for a day."""
        why = outcome.error or f"status {outcome.status}"
        if outcome.status is not None and 200 <= outcome.status < 300:
            self.deliveries.record_delivered(claim, outcome)
            log.info("job %d: webhook delivered to %s in attempt %d", delivery.job_id, delivery.host, delivery.attempt)
            return
        now = self.deliveries.now().steady
        next_at = None if outcome.status == GONE else next_attempt(now, tried_since=delivery.tried_since or now)
        self.deliveries.record_failed(claim, outcome, next_at=next_at)
        then = "is given up" if next_at is None else f"is tried again in {(next_at - now).total_seconds():.0f} s"
        log.warning("job %d: webhook to %s %s; attempt %d: %s", delivery.job_id, delivery.host, then, delivery.attempt, why)
