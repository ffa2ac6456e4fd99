"""An application with its handler in one module, so that its workers import FastAPI."""

from __future__ import annotations

from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, FlowStep

from ..support import forked
from .checked import Idle, Scan


class Read(Idle):
    def handle(self, *tasks: Scan) -> None:
        pass


portal, letters = forked(FlowStep(Read(), name="read"), name="portal"), forked(Idle(), name="letters")
app = FastAPI(lifespan=Aqueduct(portal, letters).lifespan)
