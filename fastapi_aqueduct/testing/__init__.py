"""Helpers for the tests of applications that use this package."""

from . import faults
from .client import client
from .inline import inline
from .requests import Received, request_then_disconnect
from .stub import stub

__all__ = ["Received", "client", "faults", "inline", "request_then_disconnect", "stub"]
