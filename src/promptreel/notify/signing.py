"""Signs webhooks by Standard Webhooks 1.0. The secret lets a receiver verify the sender, the body and the time."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import datetime

from promptreel.jobs.webhook_secrets import SECRET_PREFIX


def sign(secret: str, message_id: str, *, sent_at: datetime, body: bytes) -> dict[str, str]:
    """The headers of one attempt. The signature is `v1,` and the base64 of HMAC-SHA256 over `id.seconds.body`.

    `secret` is `whsec_` and base64. All attempts share the id, but each has its own time: receivers refuse old ones.
    """
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    seconds = str(int(sent_at.timestamp()))
    signature = hmac.digest(key, b".".join([message_id.encode(), seconds.encode(), body]), hashlib.sha256)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": seconds,
        "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
    }
