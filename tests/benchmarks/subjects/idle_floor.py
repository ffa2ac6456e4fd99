"""FastAPI alone, with nothing to do."""

from __future__ import annotations

from fastapi import FastAPI


def make_plain() -> FastAPI:
    app = FastAPI()

    @app.get("/answer")
    async def answer() -> int:
        return 1

    return app


def make_with_numpy() -> FastAPI:
    import numpy  # noqa: F401

    return make_plain()
