"""The example application as it is."""

from __future__ import annotations

import sys

from example_app.main import app

from .serving import serve


def main(port: int) -> None:
    serve(app, port)


if __name__ == "__main__":
    main(int(sys.argv[2]))
