"""The steps of every request for a training: read it, plan it, make its examples ready, queue it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from fastapi import Request

from promptreel.api.base_url import base_url
from promptreel.api.field_reader import as_sent
from promptreel.api.parts import Services
from promptreel.api.training_fields import SentTraining, Words, read_training
from promptreel.api.uploads import find_upload
from promptreel.encoding.inits import readable_types
from promptreel.errors import DecoderBusy, InvalidParams, LinkUnusable, NotAvailable, UrlUnusable
from promptreel.extras import install_command, is_installed
from promptreel.jobs.job import NewJob, TrainingJob
from promptreel.jobs.training_params import ExampleKind, training_units
from promptreel.training.examples import INIT_KINDS, MAX_BYTES, Gatherer, delete_examples
from promptreel.training.plan import Plan, plan_training

TRAININGS_OFF = (
    "Requests train no models here, as PROMPTREEL_TRAININGS=off says. The service's operator can train one with "
    "`promptreel train`."
)


def submit_training(
    request: Request, services: Services, fields: Mapping[str, Any], words: Words, *, dialect: str
) -> TrainingJob:
    """Queues the training that a request asks for. A repeated request gets its first job, and is not read again.

    All examples are stored before the row names them; if anything is wrong, none stays and nothing is queued.

    Raises what `OwnTrainings.submit` raises; InvalidParams, ModelNotFound, NotAvailable, DecoderBusy and StorageFailed.
    """
    if not services.may_train:
        raise NotAvailable(TRAININGS_OFF)
    first = services.trainings.find_first()
    if first is not None:
        return first
    if not is_installed("media"):
        raise NotAvailable(
            f"This server cannot read pictures and videos. Its operator can add support with: {install_command('media')}"
        )
    sent = read_training(
        fields, words, caller=services.caller, fetcher=services.fetcher, fetch=lambda url, kind: _fetch(services, url, kind)
    )
    plan = _plan(services, sent, words)
    new_job = _gather(services, sent, plan)
    told = {
        "dialect": dialect,
        "track_id": as_sent(fields.get("track_id"), sent.track_id),
        "base_url": base_url(request, services),
    }
    return _submit(services, replace(new_job, request=new_job.request | told))


def _gather(services: Services, sent: SentTraining, plan: Plan) -> NewJob:
    """The job, with its examples in storage."""
    file_prefix = str(uuid.uuid4())
    gatherer = Gatherer(
        kind=plan.preset.examples,
        shape=plan.shape,
        decoder=services.decoder,
        storage=services.storage,
        folder=file_prefix,
    )
    with _place(services):
        examples = gatherer.gather(sent.examples, field=sent.field, instance_prompt=plan.params.instance_prompt)
    params = replace(plan.params, examples=examples)
    return NewJob(
        params=params,
        request={"notes": [*sent.notes, *plan.notes]},
        cost=training_units(params),
        track_id=sent.track_id,
        webhook_url=sent.webhook_url,
        file_prefix=file_prefix,
    )


@contextmanager
def _place(services: Services) -> Iterator[None]:
    """Raises DecoderBusy if too many requests bring examples."""
    if not services.gathering.acquire(blocking=False):
        raise DecoderBusy("Too many trainings are being sent: send the request again in a few seconds.")
    try:
        yield
    finally:
        services.gathering.release()


def _plan(services: Services, sent: SentTraining, words: Words) -> Plan:
    captions = [example.caption for example in sent.examples]
    try:
        return plan_training(sent.wanted, services.models, captions=captions, is_making=services.trainings.is_making)
    except InvalidParams as error:
        raise words.rename(error) from error


def _submit(services: Services, new_job: NewJob) -> TrainingJob:
    """The examples are deleted if the job is not queued, or if the same request was queued meanwhile."""
    is_queued = False
    try:
        job = services.trainings.submit(new_job)
        is_queued = job.file_prefix == new_job.file_prefix
        return job
    finally:
        if not is_queued:
            delete_examples(services.storage, new_job.params.examples)  # type: ignore[attr-defined] # TrainingParams


def _fetch(services: Services, url: str, kind: ExampleKind) -> bytes:
    """The file behind a URL, which may be an upload on this service. Raises UrlUnusable."""
    try:
        upload = find_upload(url, services)
    except LinkUnusable as error:
        raise UrlUnusable(error.message) from error
    if upload is not None:
        return upload.data
    accept = list(readable_types(INIT_KINDS[kind]).values())
    return services.fetcher.get(url, max_bytes=MAX_BYTES, accept=accept).content
