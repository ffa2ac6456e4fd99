"""Helpers for the tests of applications that use this package."""

from . import faults
from .client import client
from .inline import inline
from .processes import in_processes
from .recorded import read_task
from .requests import Received, request_then_disconnect
from .stub import stub

__all__ = [
    "Received",
    "client",
    "faults",
    "in_processes",
    "inline",
    "read_task",
    "request_then_disconnect",
    "stub",
]
