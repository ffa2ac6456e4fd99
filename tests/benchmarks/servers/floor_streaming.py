"""FastAPI that runs the model itself: in one thread for all requests, or in a thread of the pool for each."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.responses import StreamingResponse

from .serving import serve
from .token_model import MAX_BATCH, TOKEN, Prompt, generate, report_end, run_step

EVENTS = "text/event-stream"


class Listener:
    """A request that waits for tokens.

    Attributes:
        tokens: Those that have come; None is the end.
        left: Tokens that are still to be made.
        has_left: Whether the client has gone.
    """

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self.tokens: asyncio.Queue[str | None] = asyncio.Queue()
        self.left = prompt.count
        self.has_left = False


class ModelThread:
    """Runs the model for all requests: one thread, continuous batching, an asyncio queue for each request."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived: queue.SimpleQueue[Listener | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    async def stream(self, prompt: Prompt) -> AsyncIterator[str]:
        """Make the tokens of one request."""
        listener = Listener(prompt)
        self._arrived.put(listener)
        try:
            while (token := await listener.tokens.get()) is not None:
                yield token
        finally:
            listener.has_left = True

    def close(self) -> None:
        """End the thread."""
        self._arrived.put(None)
        self._thread.join()

    def _run(self) -> None:
        live: list[Listener] = []
        while True:
            while len(live) < MAX_BATCH and (not live or not self._arrived.empty()):
                listener = self._arrived.get()
                if listener is None:
                    return
                live.append(listener)
            run_step(max(listener.prompt.step for listener in live))
            for listener in live:
                self._loop.call_soon_threadsafe(listener.tokens.put_nowait, TOKEN)
            live = [listener for listener in live if self._goes_on(listener)]

    def _goes_on(self, listener: Listener) -> bool:
        listener.left -= 1
        if listener.left and not listener.has_left:
            return True
        self._loop.call_soon_threadsafe(listener.tokens.put_nowait, None)
        report_end(listener.prompt.report_to)
        return False

    @staticmethod
    def _deliver(tokens: list[tuple[asyncio.Queue[str | None], str]]) -> None:
        for queue_, token in tokens:
            queue_.put_nowait(token)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.model = ModelThread()
    yield
    app.state.model.close()


app = FastAPI(lifespan=lifespan)


async def in_one_thread(prompt: Prompt) -> StreamingResponse:
    async def events() -> AsyncIterator[bytes]:
        async for token in app.state.model.stream(prompt):
            yield f"data: {token}\n\n".encode()

    return StreamingResponse(events(), media_type=EVENTS)


async def in_the_pool(prompt: Prompt) -> StreamingResponse:
    def events() -> Iterator[bytes]:
        for token in generate(prompt.count, prompt.step, prompt.report_to):
            yield f"data: {token}\n\n".encode()

    return StreamingResponse(events(), media_type=EVENTS)


ENDPOINTS = {"thread": in_one_thread, "pool": in_the_pool}


def main(name: str, port: int) -> None:
    app.post("/work")(ENDPOINTS[name])
    serve(app, port)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
