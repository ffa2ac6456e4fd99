"""The example application, running as a service."""

import io
from collections.abc import Iterator

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from example_app.demo import APPLICATION, Sample, load_samples
from example_app.service import Service, running_service

SAMPLES = load_samples()
A_FREE_PORT = 0


@pytest.fixture(params=SAMPLES, ids=[sample.path.name for sample in SAMPLES])
def sample(request: pytest.FixtureRequest) -> Sample:
    """Each sample picture."""
    found: Sample = request.param
    return found


@pytest.fixture(scope="package")
def service() -> Iterator[Service]:
    """The service under uvicorn, in a process of its own, ready."""
    with running_service(APPLICATION, A_FREE_PORT) as service:
        service.wait_until_ready()
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    """A client of the service."""
    with httpx.Client(base_url=service.url, timeout=50) as client:
        yield client


@pytest.fixture
def blank_picture() -> bytes:
    """A PNG with nothing on it."""
    return encode(np.full((120, 200, 3), 200, np.uint8))


def encode(pixels: npt.NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """Encode pixels as a picture file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()
