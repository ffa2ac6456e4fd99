"""The example application reads its sample pictures, and says meanwhile that it is ready."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import quantiles
from typing import Any, Self

from .client import TIMEOUT, Request
from .contest import Contestant, Rows
from .report import Promise, Report, Series
from .server import Server

SCRIPT = Path(__file__).with_name("ocr.lua")
SAMPLES = Path(__file__).parents[2] / "example_app" / "samples"
PICTURES = sorted(path for path in SAMPLES.iterdir() if path.suffix in (".jpg", ".png"))
CONTENT_TYPE = "application/octet-stream"
CONNECTIONS = 16
ROUNDS = 3
SECONDS = 7.0
"""A round."""

FILLING = 4.0
"""Seconds in which the queues fill before the first round."""

PROBE_INTERVAL = 0.02


def measure() -> Report:
    """Load all in turns and probe them meanwhile."""
    with ExitStack() as stack:
        subjects = [_Subject(one, stack) for one in contestants() if one.is_wanted]
        _verify(subjects)
        for subject in subjects:
            subject.begin()
        for _ in range(ROUNDS):
            for subject in subjects:
                subject.take_turn()
        failed = [float(subject.load.failed) for subject in subjects]
        for subject in subjects:
            subject.server.dismiss()
    rates = Rows({one.key: Series(one.name, one.rates, 2, "pictures/s") for one in subjects})
    # A round is a few pictures on a slow machine, and some take far longer than others.
    overall = Rows({one.key: Series(f"{one.name}, all rounds together", [one.rate]) for one in subjects})
    ready = Rows({one.key: Series(one.name, one.ready, 1, "p99 of /ready, ms") for one in subjects})
    return Report(
        title=f"ocr: the example reads its {len(PICTURES)} sample pictures in turn, {CONNECTIONS} connections",
        notes=[
            "the same code, models and number of workers for all; each worker of an executor reads whole pictures",
            f"the load goes on from round to round, /ready is asked every {PROBE_INTERVAL * 1000:.0f} ms beside it",
            "all were asked for each picture first, and read the same lines",
        ],
        rows=[*rates.values(), *ready.values()],
        promises=[
            *overall.at_least(1.15, "ours", "pool"),
            *(Promise(ready[key], 10) for key in ["ours"] if key in ready),
            Promise(Series("answers that were no success", failed), 0),
        ],
        references=rates.names("pool"),
    )


def contestants() -> list[Contestant]:
    """Return the servers that can do this work."""
    request = _Picture(None, PICTURES[0], CONTENT_TYPE, "/ocr")
    return [
        Contestant("ours", "fastapi_aqueduct, the example", "ocr_aqueduct", "ocr", request),
        Contestant("pool", "FastAPI and ProcessPoolExecutor", "ocr_executor", "processes", request),
        Contestant("threads", "FastAPI and ThreadPoolExecutor, in process", "ocr_executor", "threads", request),
    ]


class _Picture(Request):
    """A picture and the lines on it."""

    def send(self, port: int) -> Any:
        """Return the text of the lines and where they are."""
        return [(line["text"], line["box"]) for line in super().send(port)["lines"]]


def _verify(subjects: list[_Subject]) -> None:
    """Let one of them read the pictures; all must read the same then."""

    def read(subject: _Subject) -> list[Any]:
        subject.wait()
        return [replace(subject.request, body=picture).send(subject.server.port) for picture in PICTURES]

    # Beside each other, since it takes a while; they are at rest when the measurement begins.
    with ExitStack() as stack:
        for subject in subjects:
            stack.enter_context(subject.server.awake())
        with ThreadPoolExecutor(len(subjects)) as pool:
            lines, *others = pool.map(read, subjects)
    for subject, other in zip(subjects[1:], others, strict=True):
        if other != lines:
            raise RuntimeError(f"{subject.name} reads other lines than {subjects[0].name}")


class _Subject:
    """A server and its load, which rest and go on together: pictures under way are not lost between the rounds.

    With a few pictures a second, a load that began anew each round would measure how queues fill and drain.
    """

    def __init__(self, contestant: Contestant, stack: ExitStack) -> None:
        self.key, self.name, self.request = contestant.key, contestant.name, contestant.request
        self.server = stack.enter_context(Server(contestant.server, contestant.work))
        self.load = stack.enter_context(_Load(self.server.port))
        self.rates: list[float] = []
        self.ready: list[float] = []
        self._carried = 0.0
        self._pictures, self._seconds = 0, 0.0

    @property
    def rate(self) -> float:
        """Pictures per second, from the last answer before the first round to the last one of all."""
        return self._pictures / self._seconds if self._pictures else 0.0

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            try:
                self.request.send(self.server.port)
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def begin(self) -> None:
        """Start the load and fill the queues."""
        with self.server.awake():
            self.load.start()
            self._go_on(FILLING)

    def take_turn(self) -> None:
        """Note how many pictures are read each second, and how fast it says that it is ready."""
        pictures, seconds, probes = self._go_on(SECONDS)
        self.rates.append(pictures / seconds if pictures else 0.0)
        self.ready.append(quantiles(probes, n=100)[-1] * 1000)
        self._pictures += pictures
        self._seconds += seconds

    def _go_on(self, duration: float) -> tuple[int, float, list[float]]:
        """Return how many pictures were read in how many seconds, and the seconds that each look at /ready took."""
        begun = time.monotonic()
        with self.server.awake(), self.load.awake():
            probes = self._probe(begun + duration)
        answers = self.load.take_answers()
        if not answers:
            self._carried += duration
            return 0, 0.0, probes
        # From the last answer before to the last one now: answers come in bursts, and their work began earlier.
        seconds = self._carried + answers[-1] - begun
        self._carried = time.monotonic() - answers[-1]
        return len(answers), seconds, probes

    def _probe(self, end: float) -> list[float]:
        times: list[float] = []
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=TIMEOUT)) as probe:
            while (begun := time.monotonic()) < end:
                probe.request("GET", "/ready")
                answer = probe.getresponse()
                answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{self.name} says that it is not ready: {answer.status}")
                times.append(time.monotonic() - begun)
                time.sleep(max(0.0, PROBE_INTERVAL - times[-1]))
        return times


class _Load:
    """The clients of one server, until the end.

    Args:
        port: Of the server.
    """

    def __init__(self, port: int) -> None:
        self.failed = 0
        self._port = port
        self._answers: list[float] = []
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._reader.join()

    def start(self) -> None:
        """Begin to send pictures."""
        program = shutil.which("wrk")
        if program is None:
            raise RuntimeError("wrk is not installed: apt-get install wrk")
        options = ["--threads=1", f"--connections={CONNECTIONS}", "--duration=1h", f"--script={SCRIPT}"]
        url = f"http://127.0.0.1:{self._port}/ocr"
        command = [program, *options, url, "--", CONTENT_TYPE, *map(str, PICTURES)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, args=[self._process])
        self._reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if line.strip() == "200":
                    self._answers.append(time.monotonic())
                elif line.strip().isdigit():
                    self.failed += 1

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Resume it in this context, and suspend it again afterwards."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGSTOP)

    def take_answers(self) -> list[float]:
        """Return when the answers came since the last call."""
        answers, self._answers = self._answers, []
        return answers
