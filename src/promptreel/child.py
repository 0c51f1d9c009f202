"""What the supervisor starts: a command that ends with its supervisor, from its very first line on.

The watch begins before anything is imported that takes long, so that a supervisor that is killed leaves nobody behind, not even
a worker that still imports torch. `python -m promptreel.child worker ...` is `promptreel worker ...`.
"""

from __future__ import annotations

import os
import signal
import threading
import time

from promptreel.supervisor import STOP_SECONDS


def main() -> None:
    end_with_supervisor()
    from promptreel.cli import main as run_command

    run_command()


def end_with_supervisor(*, stop_seconds: float = STOP_SECONDS) -> None:
    """Once the supervisor's end of the pipe on stdin has closed, this process is sent what the supervisor would have sent.

    SIGTERM ends a child that still starts at once, for it has nothing in hand; later it asks for the orderly stop.
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
