"""Runs the cluster, and draws what has happened.

Run ``python -m tests.kubernetes`` for the picture of the documentation; it needs nginx, Prometheus and matplotlib
(``make bench`` installs that into .venv-bench). ``--speed 10`` divides the times of the autoscaler's ``behavior`` and
those between restarts, ``--by MANIFEST`` takes another autoscaler, ``--log FILE`` keeps the log there, ``--no-picture``
draws nothing, ``--draw FILE`` only draws an older log.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from . import journal
from .scenario import play


def main() -> None:
    """Read the options and run."""
    parser = argparse.ArgumentParser("python -m tests.kubernetes")
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--by", default="scaledobject.yaml")
    parser.add_argument("--log", type=Path, default=Path(tempfile.gettempdir(), "kubernetes.jsonl"))
    parser.add_argument("--no-picture", action="store_true")
    parser.add_argument("--draw", type=Path)
    options = parser.parse_args()
    if not options.draw:
        with tempfile.TemporaryDirectory() as directory, options.log.open("w") as file:
            log = journal.Journal(file, echo=True)
            print(asyncio.run(play(Path(directory), log, options.by, options.speed)))
    if not options.no_picture:
        from .picture import draw

        draw(journal.read(options.draw or options.log))


if __name__ == "__main__":
    main()
