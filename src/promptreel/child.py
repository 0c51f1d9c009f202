"""What the supervisor starts: a command that ends with its supervisor, from its very first line on.

The watch begins before anything is imported that takes long, so that a supervisor that is killed leaves nobody behind, not even
a worker that still imports torch. `python -m promptreel.child worker ...` is `promptreel worker ...`.
"""

from __future__ import annotations

from promptreel.worker.supervisor import end_with_supervisor


def main() -> None:
    end_with_supervisor()
    from promptreel.cli import main as run_command

    run_command()


if __name__ == "__main__":
    main()
