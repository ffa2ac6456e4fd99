"""``fastapi-aqueduct serve``: a process that runs the pipeline of a flow for others."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fastapi_aqueduct import NotRunningError, StartError
from fastapi_aqueduct.engine.shared.client import RemoteEngine
from fastapi_aqueduct.engine.shared.rendezvous import SocketRendezvous

from ..handlers import Each, Gate, Job, add_one, notes
from ..shared.guests import connect, connected, hello
from ..shared.support import few_descriptors
from ..support import DEADLINE, eventually, outcome, script_environment, wait_until, write_script
from . import gated

MAIN = """
    import os, time
    from pathlib import Path

    from fastapi_aqueduct import BaseTaskHandler, Flow, FlowStep

    def note(text):
        with open("notes", "a") as file:
            file.write(text + "\\n")

    class Read(BaseTaskHandler):
        def on_start(self):
            if Path("broken").exists():
                raise ValueError("no model")
            note(f"started {os.environ['SET_BY_CODE']}".replace(" ", ":"))

        def handle(self, *tasks):
            pass

        def on_stop(self):
            note("stopped")

    os.environ["SET_BY_CODE"] = "yes"
    note(f"imported:{os.getpid()}")
    while Path("endless").exists():
        time.sleep(0.01)
    flow = Flow(FlowStep(Read(), name="read"), name="ocr", mp_start_method="forkserver")
"""

COMMAND = [sys.executable, "-W", "error", "-c", "from fastapi_aqueduct.cli.main import main; main()", "serve"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_script(tmp_path, MAIN)
    return tmp_path


@contextlib.contextmanager
def served(folder: Path, target: str = "main:flow", **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a directory."""
    process = subprocess.Popen(
        [*COMMAND, target, "--socket", "run/flow.sock"],
        cwd=folder,
        env={**script_environment(), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        (folder / "endless").unlink(missing_ok=True)  # for a process that imports, and has lost its parent
        process.communicate()


def test_it_serves_until_it_is_told_to_stop(folder: Path) -> None:
    path = folder / "run" / "flow.sock"
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(folder / "notify"))
        notified.settimeout(2 * DEADLINE)
        with served(folder, NOTIFY_SOCKET=str(folder / "notify")) as process:
            with connected(path, "ocr") as end:
                assert (end.welcome.steps, end.welcome.pid) == (("read",), process.pid)
                assert notified.recv(100) == b"READY=1"
                assert "pydantic" not in Path(f"/proc/{process.pid}/maps").read_text()  # which FastAPI imports
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
            second = subprocess.run(
                [*COMMAND, "main:flow", "--socket", str(path)],
                cwd=folder,
                env=script_environment(),
                capture_output=True,
                text=True,
                timeout=2 * DEADLINE,
            )
            assert second.returncode == 2
            assert "another pipeline process listens at" in second.stderr
            with connected(path, "ocr") as end:
                process.send_signal(signal.SIGTERM)
                _, output = process.communicate(timeout=2 * DEADLINE)
        assert notified.recv(100) == b"STOPPING=1"
    assert process.returncode == 0, output
    assert not path.exists()
    noted = notes(folder / "notes")
    assert f"imported:{process.pid}" not in noted
    assert [note for note in noted if not note.startswith("imported:")] == ["started:yes", "stopped"]
    for text in ("flow ocr (main:flow) starts", "is ready", "joins the pipeline", "flow ocr has stopped"):
        assert text in output


def test_a_start_that_fails_is_told_to_who_waits_and_in_the_status(folder: Path) -> None:
    (folder / "broken").touch()
    with served(folder) as process:
        with pytest.raises(StartError, match="no model"):
            connect(folder / "run" / "flow.sock", "ocr")
        _, output = process.communicate(timeout=2 * DEADLINE)
    assert process.returncode == 1
    assert "flow ocr could not be started" in output and "no model" in output
    assert not (folder / "run" / "flow.sock").exists()


def test_it_can_be_stopped_while_it_imports(folder: Path) -> None:
    (folder / "endless").touch()
    with served(folder) as process:
        assert wait_until(lambda: notes(folder / "notes"), 2 * DEADLINE)
        process.send_signal(signal.SIGTERM)
        assert process.wait(2 * DEADLINE) == 0


def test_a_module_that_raises_shows_where(folder: Path) -> None:
    (folder / "main.py").write_text("1 / 0\n")
    with served(folder) as process:
        _, output = process.communicate(timeout=2 * DEADLINE)
    assert process.returncode == 1
    assert 'main.py", line 1' in output and "ZeroDivisionError" in output and "Traceback" in output


async def test_tasks_under_way_are_finished_when_it_is_told_to_stop(folder: Path) -> None:
    path, flow = folder / "run" / "flow.sock", gated.flow
    rendezvous = SocketRendezvous(hello(flow.name), str(path), ("gate",))
    gate = Gate(folder)
    with served(folder, f"{gated.__name__}:flow") as process:
        with flow._lifecycle.built_by(lambda options: RemoteEngine(options, rendezvous)):
            await flow.start_async(2 * DEADLINE)
            held = asyncio.create_task(flow.process(Job(gate=gate), 2 * DEADLINE))
            await eventually(gate.is_entered, 2 * DEADLINE)
            process.send_signal(signal.SIGTERM)
            await eventually(lambda: not path.exists())
            while not isinstance(await outcome(flow.process(Job())), NotRunningError):
                await asyncio.sleep(0.01)
            gate.open()
            assert await held
            assert await asyncio.to_thread(process.wait, 2 * DEADLINE) == 0
            await flow.stop()


@pytest.mark.long
async def test_after_a_kill_the_handler_that_was_put_in_last_is_put_in_again(folder: Path) -> None:
    path, flow = folder / "run" / "flow.sock", gated.flow
    rendezvous = SocketRendezvous(hello(flow.name), str(path), ("gate",))

    async def is_replaced() -> bool:
        answer = await outcome(flow.process(Job(number=1), 6 * DEADLINE))
        assert isinstance(answer, (Job, NotRunningError)), answer
        return isinstance(answer, Job) and answer.number == 2

    with flow._lifecycle.built_by(lambda options: RemoteEngine(options, rendezvous)):
        with served(folder, f"{gated.__name__}:flow"):
            await flow.start_async(6 * DEADLINE)
            assert not await is_replaced()
            await flow.steps["gate"].replace(Each(add_one))
            assert await is_replaced()
        with served(folder, f"{gated.__name__}:flow"):
            while not await is_replaced():
                await asyncio.sleep(0.01)
            assert all([await is_replaced() for _ in range(20)])
            assert flow.statistics().steps[0].version == 2
            await flow.stop()


async def test_who_has_no_descriptors_to_connect_is_told_so_in_words(folder: Path) -> None:
    """However few there are: a connection needs some, and the shared memory others."""
    path = folder / "run" / "flow.sock"
    ends = []
    with served(folder, f"{gated.__name__}:flow"):
        connect(path, gated.flow.name).close()
        for count in range(10):
            flow = gated.make_flow()
            rendezvous = SocketRendezvous(hello(flow.name), str(path), ("gate",))
            with flow._lifecycle.built_by(partial(RemoteEngine, rendezvous=rendezvous)):
                with few_descriptors(count):
                    ends.append(await outcome(flow.start_async(2 * DEADLINE)))
                if ends[-1] is None:
                    await flow.stop()
    assert [end for end in ends if not isinstance(end, StartError)] == [None] * ends.count(None), ends
    assert isinstance(ends[0], StartError) and ends[-1] is None, ends
