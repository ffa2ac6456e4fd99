"""Renews what the documentation shows of the status page.

Run ``python -m tests.status --pictures`` for the pictures, and with ``--cost`` for what an open page costs.
"""

import sys

from . import cost, pictures

if __name__ == "__main__":
    if "--pictures" in sys.argv[1:]:
        pictures.draw()
    if "--cost" in sys.argv[1:]:
        cost.measure()
