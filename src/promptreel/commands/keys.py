"""`promptreel keys`: who may use the service, and how much of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from promptreel.bootstrap import build_keys, find_database
from promptreel.commands.terminal import AsJson, DataDir, print_json, print_table
from promptreel.jobs.keys import ApiKey, KeyLimits, KeyStore
from promptreel.settings import load_settings

keys_app = typer.Typer(help="API keys: who may use the service, and how much of it.", no_args_is_help=True)

Which = Annotated[str, typer.Argument(help="The key's id or its first characters, as `promptreel keys list` shows them.")]
NO_LIMIT = "no limit"


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="A name for you to recognize the key by.")],
    data_dir: DataDir = None,
    max_running: Annotated[int | None, typer.Option(min=1, help="Most jobs running at once.", show_default=NO_LIMIT)] = None,
    max_queued: Annotated[int | None, typer.Option(min=1, help="Most jobs in the queue.", show_default=NO_LIMIT)] = None,
    requests_a_minute: Annotated[int | None, typer.Option(min=1, help="Requests per minute.", show_default=NO_LIMIT)] = None,
    weight: Annotated[
        float, typer.Option(min=0.001, max=1000, help="Its share of the workers, relative to the other keys' weights.")
    ] = 1.0,
) -> None:
    """Create a key and show it once. Only its hash is stored. As soon as one key exists, every request needs a key."""
    limits = KeyLimits(max_running=max_running, max_queued=max_queued, requests_a_minute=requests_a_minute, weight=weight)
    made, key = build_keys(load_settings(data_dir=data_dir)).create(name, limits)
    print(f"id\t{made.id}\nkey\t{key}\nwebhook secret\t{made.webhook_secret}")  # noqa: T201


@keys_app.command("list")
def list_keys(data_dir: DataDir = None, as_json: AsJson = False) -> None:
    """List all keys, oldest first. Shows their first characters and limits."""
    keys = _open_keys(data_dir).list()
    if as_json:
        print_json([{name: value for name, value in asdict(key).items() if name != "webhook_secret"} for key in keys])
    else:
        _print_keys(keys)


@keys_app.command("revoke")
def revoke_key(which: Which, data_dir: DataDir = None) -> None:
    """Revoke a key permanently. Its jobs stay, and its queued jobs still run."""
    _print_keys([_open_keys(data_dir).revoke(which)])


@keys_app.command("webhook-secret")
def show_webhook_secret(which: Which, data_dir: DataDir = None) -> None:
    """Show the secret that signs a key's webhooks."""
    print(_open_keys(data_dir).get(which).webhook_secret)  # noqa: T201


def _open_keys(data_dir: Path | None) -> KeyStore:
    settings = load_settings(data_dir=data_dir)
    return build_keys(settings, find_database(settings))


def _print_keys(keys: Sequence[ApiKey]) -> None:
    rows = []
    for key in keys:
        limits = key.limits
        counts = {"running": limits.max_running, "queued": limits.max_queued, "a minute": limits.requests_a_minute}
        told = [f"{count} {what}" for what, count in counts.items() if count is not None]
        state = "active" if key.revoked_at is None else f"revoked {key.revoked_at:%Y-%m-%d}"
        rows.append((str(key.id), f"{key.prefix}...", state, ", ".join([*told, f"weight {limits.weight:g}"]), key.name))
    print_table(("ID", "KEY", "STATE", "LIMITS", "NAME"), rows)
