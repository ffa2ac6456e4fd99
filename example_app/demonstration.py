"""The command line of a demonstration: starts a service, tries it, and keeps serving."""

import argparse
import os
import secrets
import signal
import sys
from collections.abc import Callable

import httpx

from example_app.operators import OPERATOR, PASSWORD
from example_app.service import Service, ServiceDied, running_service


def main(application: str, description: str, trial: Callable[[Service], bool]) -> None:
    """Read the command line and run; the exit status is 0 only if the trial succeeds.

    Args:
        application: The application, as for `Service`.
        description: One line for ``--help``.
        trial: Tries the service, prints what it does, and returns whether all went well.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--once", action="store_true", help="stop the service after it was tried")
    parser.add_argument("--port", type=int, default=8000, help="port of the service (8000)")
    options = parser.parse_args()
    # SIGTERM is handled as Ctrl-C: without this the service would outlive the demonstration.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(_demonstrate(application, trial, options.port, options.once))


def _demonstrate(application: str, trial: Callable[[Service], bool], port: int, once: bool) -> int:
    passed = False
    try:
        password = os.environ.get(PASSWORD) or secrets.token_urlsafe(6)
        with running_service(application, port, {PASSWORD: password}) as service:
            service.wait_until_ready()
            passed = trial(service)
            if not once:
                print(f"\nThe page:   {service.url}/\nThe API:    {service.url}/docs")
                print(f"The status: {service.url}/ops/ (user {OPERATOR}, password {password})")
                print("Ctrl-C stops the service.", flush=True)
                service.wait(None)
    except KeyboardInterrupt:
        print("\nStopped.", flush=True)
    except (ServiceDied, httpx.HTTPError) as error:
        print(f"\n{error}", file=sys.stderr, flush=True)
        return 1
    return 0 if passed else 1
