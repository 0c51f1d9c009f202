"""The secrets that sign webhooks: an API key's own, or the installation's."""

from __future__ import annotations

import base64
import secrets

from sqlalchemy import select

from promptreel.jobs.database import Database, read_transaction
from promptreel.jobs.installation_facts import WEBHOOK_SECRET, read_or_make
from promptreel.jobs.tables import api_keys

SECRET_PREFIX = "whsec_"  # noqa: S105 - how every such secret begins, by Standard Webhooks
SECRET_BYTES = 32


def new_webhook_secret() -> str:
    """A fresh secret in Standard Webhooks' form: `whsec_` and base64."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


class WebhookSecrets:
    """Safe to use from several threads and processes at once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, api_key_id: int | None) -> str:
        """The secret for an API key's jobs; with None, the installation's."""
        if api_key_id is None:
            return self.of_installation()
        with read_transaction(self._database) as connection:  # a revoked key still has its row, and its secret
            return str(connection.execute(select(api_keys.c.webhook_secret).where(api_keys.c.id == api_key_id)).scalar_one())

    def of_installation(self) -> str:
        """The first call makes it, and it never changes."""
        return read_or_make(self._database, WEBHOOK_SECRET, new_webhook_secret)
