"""Renews what the documentation shows of the dashboard.

Run ``python -m tests.monitoring`` for its JSON. With ``--picture`` the services run under load for a minute, and their
dashboard is drawn, which needs matplotlib.
"""

import sys
import tempfile
from pathlib import Path

from example_app.demo import APPLICATION
from example_app.service import running_service

from . import dashboard
from .watching import watching

LOAD_TIME = 60.0
"""Seconds."""

A_FREE_PORT = 0


def main(has_picture: bool) -> None:
    dashboard.FILE.write_text(dashboard.build())
    if has_picture:
        from .picture import draw

        with (
            tempfile.TemporaryDirectory() as directory,
            running_service(APPLICATION, A_FREE_PORT) as example,
        ):
            example.wait_until_ready()
            with watching(Path(directory), example, LOAD_TIME) as watched:
                draw(watched)


if __name__ == "__main__":
    main("--picture" in sys.argv[1:])
