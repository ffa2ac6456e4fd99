"""The releases of FastAPI, Starlette and uvicorn whose private parts are used have been tried.

``make test-latest`` fails here when a newer one is out. What works without them goes on working, but slower.
"""

from __future__ import annotations

from importlib.metadata import version

import pytest

from fastapi_aqueduct.asgi.versions import KNOWN, unknown

CHECKS = {
    "fastapi": (
        "compare get_request_handler, request_response, serialize_response and _build_response_args of "
        "fastapi/routing.py with FastPath in asgi/endpoints/fast_path.py, and the names that its _find_parts imports"
    ),
    "starlette": (
        "compare Request.body and Request.stream of starlette/requests.py with HeapGuard.read in asgi/body/heap.py "
        "and with Tap in asgi/uvicorn.py: they read and set _body, _stream_consumed and _is_disconnected"
    ),
    "uvicorn": (
        "compare on_body (h11: handle_events) and RequestResponseCycle.receive of uvicorn/protocols/http with "
        "asgi/uvicorn.py"
    ),
}


@pytest.mark.parametrize("package", KNOWN)
def test_the_installed_release_was_tried(package: str) -> None:
    installed = version(package)
    reason = unknown(package, installed)
    assert reason is None, (
        f"{reason}: {CHECKS[package]}; run tests/asgi/test_fast_path.py, test_uvicorn.py, test_tap.py and "
        "test_heap.py with it; then add the series to KNOWN in asgi/versions.py"
    )


@pytest.mark.parametrize(
    ("installed", "is_known"),
    [("0.54", True), ("0.54.0", True), ("0.54.1rc1", True), ("0.55.0", False), ("0.5.4", False), ("0.540", False)],
)
def test_a_series_is_exact(installed: str, is_known: bool) -> None:
    reason = unknown("uvicorn", installed)
    assert (reason is None) == is_known
    if reason is not None:
        assert f"uvicorn {installed} is not" in reason and "0.54" in reason
