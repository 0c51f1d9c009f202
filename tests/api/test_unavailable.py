from __future__ import annotations

import pytest
from fastapi.testclient import TestClient


@pytest.mark.parametrize(
    "path",
    [
        "fine_tune",
        "fine_tune_v2",
        "lora_fine_tune",
        "fine_tune_status/F5jvdzGnYi",
        "finetune_list",
        "cancle_training/F5jvdzGnYi",
        "cancel_training/F5jvdzGnYi",
        "finetune/delete/F5jvdzGnYi",
    ],
)
def test_training_says_that_it_is_not_available_yet(client: TestClient, path: str) -> None:
    answer = client.post(f"/api/v3/{path}", json={"key": "k", "images": ["https://pictures.example/1.png"]})

    assert (answer.status_code, answer.json()["status"]) == (200, "error")
    assert answer.json()["message"].startswith("Training is not available yet.")
    assert answer.json()["message"] == answer.json()["messege"]
