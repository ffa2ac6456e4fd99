"""The chat with its n-gram model, running as a service."""

from collections.abc import Iterator

import openai
import pytest

from example_app.chat.demo import APPLICATION
from example_app.service import Service, running_service

from .questions import ANSWERS, MODEL, QUEUE_SIZE, STEP_TIME

A_FREE_PORT = 0


@pytest.fixture(scope="package")
def service() -> Iterator[Service]:
    """The service under uvicorn, in a process of its own, ready."""
    settings = {
        "CHAT_MODEL": MODEL,
        "CHAT_STEP_TIME": str(STEP_TIME),
        "CHAT_ANSWERS": str(ANSWERS),
        "CHAT_QUEUE_SIZE": str(QUEUE_SIZE),
    }
    with running_service(APPLICATION, A_FREE_PORT, settings) as service:
        service.wait_until_ready()
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    """OpenAI's client of the service."""
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=100) as client:
        yield client
