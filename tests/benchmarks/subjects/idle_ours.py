"""FastAPI with a flow of one worker that has nothing to do."""

from __future__ import annotations

from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, BaseTask, BaseTaskHandler, Flow, FlowStep


def make_plain() -> FastAPI:
    from .trivial import Nothing

    return _make_app(Nothing())


def make_with_numpy() -> FastAPI:
    from .trivial_numpy import NothingWithNumpy

    return _make_app(NothingWithNumpy())


def _make_app(handler: BaseTaskHandler) -> FastAPI:
    flow = Flow(FlowStep(handler))
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)

    @app.get("/answer")
    async def answer() -> int:
        await flow.process(BaseTask())
        return 1

    return app
