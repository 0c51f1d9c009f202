"""The process of a training: killed, left alone, and told nonsense."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from promptreel.errors import TrainingFailed
from promptreel.training.child import PARENT_GONE
from promptreel.training.orders import Order
from tests.training.conftest import Trained
from tests.training.orders import STEPS, hash_result, run

PATIENCE = 300.0


@contextmanager
def start() -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "promptreel.training.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    watch = threading.Timer(PATIENCE, child.kill)
    watch.start()
    try:
        yield child
    finally:
        watch.cancel()
        child.kill()
        child.wait()


def send(child: subprocess.Popen[str], told: dict[str, Any] | str) -> None:
    assert child.stdin is not None
    child.stdin.write((told if isinstance(told, str) else json.dumps(told)) + "\n")
    child.stdin.flush()


def read_until(child: subprocess.Popen[str], name: str, step: int = 0) -> dict[str, Any]:
    """The event of this name, at this step or later. Samples before it are not waited for."""
    assert child.stdout is not None
    for line in child.stdout:
        event = json.loads(line)
        if event["event"] == name and event.get("step", 0) >= step:
            return dict(event)
        if event["event"] == "sample":
            send(child, {"command": "go on"})
    raise AssertionError(f"the child ended before {name!r}")


@pytest.mark.slow
def test_child_that_was_killed_or_left_alone_goes_on_to_the_same_bits(trained: Trained, tmp_path: Path) -> None:
    order = trained.order("subject", tmp_path)
    whole = {**order.to_json(), "params": {**order.params.to_json(), "sample_prompts": ["a cat"]}}
    with start() as child:
        send(child, whole)
        name = read_until(child, "checkpoint", step=2)["name"]
        send(child, {"command": "named", "name": name})
        read_until(child, "checkpoint", step=4)  # which nobody named
        os.kill(child.pid, signal.SIGKILL)
    with start() as child:
        send(child, {**whole, "resume": name})
        read_until(child, "sample", step=2)
        before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(PATIENCE) == PARENT_GONE
        assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before

    def go_on(event: Any) -> str | None:
        return "go on" if event["event"] == "sample" else None

    order = Order.read(json.dumps({**whole, "resume": name}))
    assert run(order, go_on).named("done")[0]["step"] == STEPS
    assert hash_result(tmp_path) == expected_hash(trained, whole, tmp_path)


def expected_hash(trained: Trained, whole: dict[str, Any], tmp_path: Path) -> str:
    """Of an uninterrupted run with the same params, which are named in the file."""
    folder = tmp_path / "uninterrupted"
    order = Order.read(json.dumps({**whole, "folder": str(folder)}))
    run(order, lambda event: "go on" if event["event"] == "sample" else None)
    return hash_result(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"params": {}}', "cannot be read"),
        ({"params": {"preset": "nonsense"}}, "There is no preset 'nonsense'"),
        ({"params": {"steps": 0}}, "whole numbers above 0"),
        ({"params": {"rank": "many"}}, "whole numbers above 0"),
        ({"examples": []}, "0 files are given for 3 examples"),
        ({"params": {"preset": "motion"}}, "learns from clips, not from a picture"),
    ],
)
def test_broken_order_is_an_error_with_a_reason(trained: Trained, line: Any, message: str, tmp_path: Path) -> None:
    whole = trained.order("subject", tmp_path).to_json()
    told = (
        line
        if isinstance(line, str)
        else json.dumps({**whole, **line, "params": {**whole["params"], **line.get("params", {})}})
    )
    with pytest.raises(TrainingFailed, match=message):
        Order.read(told)


@pytest.mark.slow
def test_child_says_why_it_fails_and_shows_no_traceback() -> None:
    with start() as child:
        send(child, '{"params": 3}')
        assert read_until(child, "failed")["code"] == "training_failed"
        assert child.stdout is not None
        assert child.stdout.read() == ""
        assert child.wait(PATIENCE) == 1
