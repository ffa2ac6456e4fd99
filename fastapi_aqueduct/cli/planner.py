"""Makes the plan of a flow in a short-lived process, so that the pipeline process imports no code of the user's."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import traceback

from ..engine.shared.plan import Plan
from ..engine.workers.interpreter import interpreter_options
from ..logger import log

FAILED, REFUSED = 1, 2
"""Exit status of that process: the user's code has raised; the target or the flow cannot be used."""


def plan_in_child(target: str, flow: str | None) -> Plan | int:
    """Make the plan of a flow in another process, which imports its module.

    Args:
        target: As for `find_flow`.
        flow: As for `find_flow`.

    Returns:
        The plan; the exit status of the process if it has failed, and has written why to stderr.
    """
    read_fd, write_fd = os.pipe()
    with open(read_fd, "rb") as pipe:
        try:
            child = subprocess.Popen(
                [sys.executable, *interpreter_options(), "-m", __name__, target, flow or "", str(write_fd)],
                pass_fds=(write_fd,),
            )
        finally:
            os.close(write_fd)
        try:
            data = pipe.read()
            status = child.wait()
        except BaseException:
            child.kill()
            child.wait()
            raise
    return Plan.unpack(data) if status == 0 else status


def log_to_stderr() -> None:
    """Show what the package logs, unless the application has configured logging otherwise."""
    logging.basicConfig(format="%(asctime)s %(levelname)s: %(message)s")
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)


def main() -> None:
    """Run that process: import the module, make the plan, write it."""
    from ..engine.shared.plan import make_plan
    from ..exceptions import AqueductError
    from .target import ModuleFailed, find_flow

    target, flow, write_fd = sys.argv[1], sys.argv[2] or None, int(sys.argv[3])
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = find_flow(target, flow)
        log_to_stderr()  # the numbers of the flow, and where they come from
        data = make_plan(found._configuration.read()).pack()
    except ModuleFailed as exc:
        traceback.print_exception(exc.__cause__)
        print(f"fastapi-aqueduct: {exc}", file=sys.stderr)
        sys.exit(FAILED)
    except AqueductError as exc:
        print(f"fastapi-aqueduct: {exc}", file=sys.stderr)
        sys.exit(REFUSED)
    with open(write_fd, "wb") as pipe:
        pipe.write(data)


if __name__ == "__main__":
    main()
