"""Jobs under servers that are killed."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ..asgi.service import SERVERS, Service, launched
from ..support import DEADLINE, wait_until, write_script
from .service import SOURCE

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


def ask(url: str, method: str = "GET") -> httpx.Response:
    """Send a request in a connection of its own, until there is a server that answers it."""
    answers: list[httpx.Response] = []

    def has_answer() -> bool:
        try:
            answers.append(httpx.request(method, url, timeout=DEADLINE, verify=False))
        except httpx.TransportError:
            return False
        return answers[-1].status_code < 500

    assert wait_until(has_answer, 3 * DEADLINE)
    return answers[-1]


def completed(url: str) -> bool:
    """Wait a while for a job; tell whether it has completed."""
    return bool(ask(f"{url}?wait=10").json()["state"] == "completed")


def test_another_process_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes with one pipeline, the one that runs the jobs is killed; each of them answers for all jobs."""
    monkeypatch.setenv("AQUEDUCT_PIPELINE", "host")
    write_script(tmp_path, SOURCE)
    with launched(tmp_path, SERVERS["uvicorn-workers"]) as (process, port):
        service = Service(tmp_path, process, port)
        assert wait_until(lambda: service.probe() == 200, 3 * DEADLINE), service.log()
        urls = [
            service.url + ask(f"{service.url}/works?name=job{number}&payload=0.3", "POST").headers["location"]
            for number in range(12)
        ]
        owners: set[int] = set()

        def has_owner() -> bool:
            pid, is_owner = ask(f"{service.url}/process").json()
            if is_owner and pid not in owners:
                owners.add(pid)
                return True
            return False

        assert wait_until(has_owner, DEADLINE), service.log()
        os.kill(min(owners), signal.SIGKILL)
        assert wait_until(has_owner, 3 * DEADLINE), service.log()
        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(lambda url: wait_until(lambda: completed(url), 3 * DEADLINE), urls)), service.log()
        assert ask(f"{urls[0]}/result").json() == "JOB0"
        process.terminate()
        process.wait(DEADLINE)


def test_a_stop_while_a_client_follows(tmp_path: Path) -> None:
    """The stream and the server end; the job goes on at the next start, and this was no attempt."""
    write_script(tmp_path, SOURCE)
    with running(tmp_path) as service:
        job = ask(f"{service.url}/works?name=slow&payload=5", "POST").headers["location"]
        headers = {"accept": "text/event-stream"}
        with httpx.stream("GET", service.url + job, headers=headers, timeout=2 * DEADLINE, verify=False) as answer:
            lines = answer.iter_lines()
            assert any('"state":"running"' in line for line in lines)
            service.process.terminate()
            assert not any("cancelled" in line for line in lines)
        service.process.wait(3 * DEADLINE)
    with running(tmp_path) as service:
        assert wait_until(lambda: completed(service.url + job), 3 * DEADLINE), service.log()
        assert ask(service.url + job).json()["attempts"] == 1


def test_ten_thousand_jobs_survive_a_kill(tmp_path: Path) -> None:
    """The server is killed with its workers while jobs come and run; each job that it has accepted completes."""
    write_script(tmp_path, SOURCE)
    accepted: list[str] = []
    numbers = itertools.count()
    with running(tmp_path) as service, ThreadPoolExecutor(8) as threads:
        client = httpx.Client(base_url=service.url, timeout=60, verify=False)
        sending = [threads.submit(send, client, next(numbers)) for _ in range(7000)]
        assert wait_until(lambda: sum(sent.done() for sent in sending) > 5000, 600)
        service.process.kill()
        service.process.wait(DEADLINE)
        accepted += [job for sent in sending if (job := sent.result()) is not None]
        client.close()
    assert 5000 < len(accepted) <= 7000
    with running(tmp_path) as service, ThreadPoolExecutor(8) as threads:
        client = httpx.Client(base_url=service.url, timeout=120, verify=False)
        while len(accepted) < 10_000:
            sent = threads.map(lambda _: send(client, next(numbers)), range(10_000 - len(accepted)))
            accepted += [job for job in sent if job is not None]
        for job in accepted:
            assert wait_until(lambda job=job: has_completed(client, job), 600), service.log()  # type: ignore[misc]
        client.close()
        service.process.terminate()
        service.process.wait(3 * DEADLINE)
    assert len(set((tmp_path / "runs").read_text().split())) >= 10_000


@contextmanager
def running(directory: Path) -> Iterator[Service]:
    """Run a server until the end of the context."""
    with launched(directory, SERVERS["uvicorn"]) as (process, port):
        service = Service(directory, process, port)
        assert wait_until(lambda: service.probe() == 200, 3 * DEADLINE), service.log()
        yield service


def send(client: httpx.Client, number: int) -> str | None:
    """Send a job; return its id, or None where it was not accepted."""
    try:
        answer = client.post(f"/works?name=job{number}")
    except httpx.TransportError:
        return None
    return str(answer.json()["id"]) if answer.status_code == 202 else None


def has_completed(client: httpx.Client, job: str) -> bool:
    """Wait a while for a job; tell whether it has completed."""
    return bool(client.get(f"/jobs/{job}?wait=60").json()["state"] == "completed")
