"""The example application, running as a service."""

import io
import re
from collections.abc import Iterator

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont

from example_app.demo import APPLICATION, Sample, load_samples
from example_app.operators import PASSWORD
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
    with running_service(APPLICATION, A_FREE_PORT, {PASSWORD: "secret"}) as service:
        service.wait_until_ready()
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    """A client of the service."""
    with httpx.Client(base_url=service.url, timeout=100, verify=False) as client:
        yield client


@pytest.fixture
def blank_picture() -> bytes:
    """A PNG with nothing on it."""
    return encode(np.full((120, 200, 3), 200, np.uint8))


@pytest.fixture
def short_page() -> bytes:
    """A PNG with 3 short lines."""
    return draw_lines(640, 100, 3, columns=1)


@pytest.fixture
def long_page() -> bytes:
    """A PNG with 90 short lines, which take the recogniser a second or more."""
    return draw_lines(640, 640, 90, columns=3)


def draw_lines(width: int, height: int, count: int, columns: int) -> bytes:
    """Draw numbered lines, row by row."""
    page = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for number in range(count):
        row, column = divmod(number, columns)
        place = 12 + column * (width - 12) // columns, 8 + row * (height - 10) * columns // count
        draw.text(place, f"Entry {number}", "black", font)
    return encode(np.asarray(page))


def encode(pixels: npt.NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """Encode pixels as a picture file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def count_tasks(client: httpx.Client, outcome: str) -> float:
    """Return how many tasks of the service have ended so."""
    metrics = client.get("/metrics").text
    (count,) = re.findall(rf'^aqueduct_tasks_total\{{.*outcome="{outcome}".*\}} (.+)', metrics, re.MULTILINE)
    return float(count)
