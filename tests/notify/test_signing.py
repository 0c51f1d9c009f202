from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from promptreel.jobs.webhook_secrets import new_webhook_secret
from promptreel.notify.signing import sign


def test_signature_is_that_of_the_standards_own_example() -> None:
    """Secret, id, time, body and signature as published by the authors of `standardwebhooks`."""
    signed = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        sent_at=datetime.fromtimestamp(1614265330, UTC),
        body=b'{"test": 2432232314}',
    )

    assert signed == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_body_is_verified_by_the_standards_library(text: str) -> None:
    secret, body = new_webhook_secret(), text.encode()

    headers = sign(secret, "msg_1", sent_at=datetime.now(UTC), body=body)

    Webhook(secret).verify(body, headers, json_parse=False)


@pytest.mark.parametrize("change", ["body", "id", "secret", "time"])
def test_any_tampering_is_detected(change: str) -> None:
    secret, now = new_webhook_secret(), datetime.now(UTC)
    sent_at = now - timedelta(minutes=6) if change == "time" else now
    headers = sign(secret, "msg_1", sent_at=sent_at, body=b"{}")
    if change == "id":
        headers["webhook-id"] = "msg_2"

    with pytest.raises(WebhookVerificationError):
        Webhook(new_webhook_secret() if change == "secret" else secret).verify(b"[]" if change == "body" else b"{}", headers)
