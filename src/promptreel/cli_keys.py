"""`promptreel keys`: who may use the service, and how much of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from promptreel.bootstrap import build_keys
from promptreel.jobs.keys import ApiKey, KeyLimits
from promptreel.settings import load_settings

keys_app = typer.Typer(help="API keys: who may use the service, and how much of it.", no_args_is_help=True)

DataDir = Annotated[Path | None, typer.Option(help="Where the queue, the videos and the added models are kept.")]
Which = Annotated[str, typer.Argument(help="The key's id, or how it begins, as `promptreel keys list` shows them.")]
NO_LIMIT = "no limit"


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is, for you to tell it from others.")],
    data_dir: DataDir = None,
    max_running: Annotated[int | None, typer.Option(min=1, help="Jobs at work at once.", show_default=NO_LIMIT)] = None,
    max_queued: Annotated[int | None, typer.Option(min=1, help="Jobs that wait at once.", show_default=NO_LIMIT)] = None,
    requests_a_minute: Annotated[int | None, typer.Option(min=1, help="Requests in a minute.", show_default=NO_LIMIT)] = None,
    weight: Annotated[
        float, typer.Option(min=0.001, max=1000, help="Its share of the workers, against the other keys' weights.")
    ] = 1.0,
) -> None:
    """Make a key. It is shown once: only its hash is kept. From the first key on, no request is served without one."""
    limits = KeyLimits(max_running=max_running, max_queued=max_queued, requests_a_minute=requests_a_minute, weight=weight)
    made, key = build_keys(load_settings(data_dir=data_dir)).create(name, limits)
    print(f"id\t{made.id}\nkey\t{key}\nwebhook secret\t{made.webhook_secret}")  # noqa: T201


@keys_app.command("list")
def list_keys(data_dir: DataDir = None) -> None:
    """All keys, oldest first, with their limits; of each key, how it begins."""
    for key in build_keys(load_settings(data_dir=data_dir)).list():
        _print_key(key)


@keys_app.command("revoke")
def revoke_key(which: Which, data_dir: DataDir = None) -> None:
    """End a key for good. Its jobs stay, and those that wait are still made."""
    _print_key(build_keys(load_settings(data_dir=data_dir)).revoke(which))


@keys_app.command("webhook-secret")
def show_webhook_secret(which: Which, data_dir: DataDir = None) -> None:
    """The secret that the webhooks of a key's jobs are signed with."""
    print(build_keys(load_settings(data_dir=data_dir)).get(which).webhook_secret)  # noqa: T201


def _print_key(key: ApiKey) -> None:
    limits = key.limits
    counts = {"running": limits.max_running, "queued": limits.max_queued, "a minute": limits.requests_a_minute}
    told = [f"{count} {what}" for what, count in counts.items() if count is not None]
    state = "active" if key.revoked_at is None else f"revoked {key.revoked_at:%Y-%m-%d}"
    print(f"{key.id}\t{key.prefix}...\t{state}\t{', '.join([*told, f'weight {limits.weight:g}'])}\t{key.name}")  # noqa: T201
