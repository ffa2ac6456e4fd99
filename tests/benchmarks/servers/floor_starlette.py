"""Starlette that does the work itself."""

from __future__ import annotations

import json
import sys

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from .serving import serve


async def noop(request: Request) -> JSONResponse:
    return JSONResponse({"value": json.loads(await request.body())["value"]})


if __name__ == "__main__":
    serve(Starlette(routes=[Route("/work", noop, methods=["POST"])]), int(sys.argv[2]))
