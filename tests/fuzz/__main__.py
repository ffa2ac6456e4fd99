"""Looks for inputs that break something, guided by what code they reach: ``python -m tests.fuzz SECONDS``.

What it finds, and what it has learned, is written to the directory .cache/fuzz; an input that broke something belongs
into corpus/ once it is understood, where the ordinary tests replay it for ever.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
from pathlib import Path

HERE = Path(__file__).parent
FOUND = HERE.parent.parent / ".cache" / "fuzz"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("seconds", type=int, help="how long to look")
    options = parser.parse_args()

    import atheris

    # Before anything imports them: their code is rewritten so that it tells what of it has run.
    with atheris.instrument_imports(include=["fastapi_aqueduct", "python_multipart"]):
        from .targets import all_targets

    logging.disable()  # the parser of forms has something to say about every second input
    learned = FOUND / "learned"
    learned.mkdir(parents=True, exist_ok=True)
    with all_targets() as run:

        def examine(data: bytes) -> None:
            try:
                run(data)
            except BaseException:
                (FOUND / f"broken-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)
                raise

        atheris.Setup(
            [
                sys.argv[0],
                str(learned),
                str(HERE / "corpus"),
                f"-dict={HERE / 'tokens.dict'}",
                f"-artifact_prefix={FOUND}/",
                f"-max_total_time={options.seconds}",
                "-max_len=8192",
                "-timeout=20",
            ],
            examine,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
