"""The web service of the chat: a page, and an OpenAI-compatible API."""

from pathlib import Path

from fastapi import Depends, FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from prometheus_fastapi_instrumentator import Instrumentator

from example_app.chat import problems
from example_app.chat.completions import Completions
from example_app.chat.pipeline import build_flow
from example_app.chat.settings import Settings
from example_app.operators import check_operator
from fastapi_aqueduct import Aqueduct, Flow

STATIC = Path(__file__).parent / "static"
UNCOUNTED = ["^/ready$", "^/live$", "^/startup$", "^/metrics$", "^/ops/"]


def build_app(flow: Flow, model: str) -> FastAPI:
    """Make the application.

    Args:
        flow: Answers the questions.
        model: The name of its model.
    """
    aqueduct = Aqueduct(flow)
    app = FastAPI(
        title="Chat",
        description="A small language model, through the API of OpenAI.",
        lifespan=aqueduct.lifespan,
    )
    Instrumentator(excluded_handlers=UNCOUNTED).instrument(app).expose(app, include_in_schema=False)
    problems.install(app)
    app.include_router(Completions(model).router())
    app.include_router(aqueduct.admin, prefix="/ops", dependencies=[Depends(check_operator)])
    app.mount("/static", StaticFiles(directory=STATIC))
    app.get("/", include_in_schema=False)(page)
    return app


async def page() -> FileResponse:
    """Return the page on which a user talks to the model."""
    return FileResponse(STATIC / "page.html", headers={"Content-Security-Policy": "default-src 'self'"})


settings = Settings.from_environment()
app = build_app(build_flow(settings), settings.model)
