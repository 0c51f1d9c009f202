"""Signatures of webhooks, by Standard Webhooks 1.0: a receiver that knows the secret knows who sent a body, and when."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import datetime

from promptreel.jobs.webhook_secrets import SECRET_PREFIX


def sign(secret: str, message_id: str, *, sent_at: datetime, body: bytes) -> dict[str, str]:
    """The headers of one attempt: `v1,` and base64 of HMAC-SHA256 over `id.seconds.body`.

    `secret` is `whsec_` and base64. The id is the same in every attempt, the time is not: receivers refuse old ones.
    """
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    seconds = str(int(sent_at.timestamp()))
    signature = hmac.digest(key, b".".join([message_id.encode(), seconds.encode(), body]), hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": seconds,
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }
