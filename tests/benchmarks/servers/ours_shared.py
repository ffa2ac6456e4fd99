"""fastapi_aqueduct behind FastAPI routes, with its pipeline in a process of its own."""

from __future__ import annotations

import os
import sys

from .ours_fastapi import main

if __name__ == "__main__":
    os.environ["AQUEDUCT_PIPELINE"] = "host"
    main(sys.argv[1], int(sys.argv[2]))
