"""The entry point of the supervisor's children: runs a command that ends when the supervisor does.

`python -m promptreel.child worker ...` is `promptreel worker ...`. The watch starts before any slow import, so even a worker
that is still importing torch ends when its supervisor is killed.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from promptreel.extras import imports_for_good
from promptreel.supervisor import STOP_SECONDS


def main() -> None:
    end_with_supervisor()
    with imports_for_good():
        from promptreel.cli import main as run_command

    run_command()


def end_with_supervisor(*, stop_seconds: float = STOP_SECONDS) -> None:
    """When the supervisor's end of the stdin pipe closes, sends this process SIGTERM, then SIGKILL, as the supervisor would.

    A child that is still starting has no SIGTERM handler yet and ends at once; later, SIGTERM asks for an orderly stop.
    """

    def wait_for_close() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(stop_seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait_for_close, name="supervisor-watch", daemon=True).start()


if __name__ == "__main__":
    main()
