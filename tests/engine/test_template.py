"""Templates: a process of its own for each flow loads once, and workers are forked from it."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from fastapi_aqueduct import ConfigurationError, Flow, FlowStep, StartError, StartTimeout, WorkerOptions
from fastapi_aqueduct.engine.system.cpu import available_cores
from fastapi_aqueduct.engine.timing import Timing
from fastapi_aqueduct.engine.wire.descriptor_channel import DescriptorChannel
from fastapi_aqueduct.engine.workers.lifeline import Lifeline
from fastapi_aqueduct.engine.workers.process import Descriptors
from fastapi_aqueduct.engine.workers.spec import SpecMaker
from fastapi_aqueduct.engine.workers.template_keeper import TemplateKeeper
from fastapi_aqueduct.exceptions import WorkerTraceback
from fastapi_aqueduct.testing import inline

from .. import handlers
from ..handlers import Each, Gate, Job, notes
from ..support import DEADLINE, Ends, busy, eventually, pids, running
from . import templates
from .templates import Loader, Reader

TIMING = Timing(first_wait=0.05, longest_wait=0.2)


def private_memory(pid: int) -> int:
    """Return the bytes of a process that it shares with no other one."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))


def template_pid(flow: Flow) -> int | None:
    template = flow.statistics().template
    assert template is not None
    return template.pid


async def ask_each(flow: Flow) -> dict[int, Job]:
    """Get an answer of each worker, by process id."""
    answers: dict[int, Job] = {}
    deadline = time.monotonic() + DEADLINE
    while len(answers) < len(pids(flow)) and time.monotonic() < deadline:
        for job in await asyncio.gather(*[flow.process(Job()) for _ in range(4)]):
            answers[job.pid] = job
    return answers


async def test_workers_share_what_the_template_has_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    async with running(Flow(FlowStep(Reader(), nprocs=2), template=Loader(tmp_path))) as flow:
        parent = template_pid(flow)
        first = await ask_each(flow)
        os.kill(min(first), signal.SIGKILL)
        await eventually(lambda: len(pids(flow)) == 2 and min(first) not in pids(flow))
        answers = {**first, **await ask_each(flow)}
        assert len(answers) == 3
        assert {job.parent for job in answers.values()} == {parent}
        assert all(job.loaded_before and job.sum == 7 * 128 for job in answers.values())
        assert all(private_memory(pid) < templates.SIZE / 10 for pid in pids(flow))
        # The numbers of Python's and of numpy's generators.
        assert len({draw for job in answers.values() for draw in job.draws}) == 6
        assert {job.threads for job in answers.values()} == {(str(max(1, available_cores() // 2)), "3")}
    assert notes(tmp_path / "loads") == [f"{parent}:1:1"]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("raise", r"failed in template \(Loader\): FileNotFoundError: no weights here"),
        ("exit", "exited with code 7 while it was loading"),
        ("crash", r"was killed by SIGSEGV while it was loading(.|\n)* in act"),
    ],
)
async def test_a_template_that_cannot_load_ends_the_start(tmp_path: Path, what: str, message: str) -> None:
    (tmp_path / "act").write_text(what)
    flow = Flow(Reader(), name="ocr", template=Loader(tmp_path))
    with pytest.raises(StartError, match=rf"the template of flow ocr \(pid \d+\) {message}") as caught:
        await flow.start_async()
    assert (caught.value.step, caught.value.pid) == ("", int(notes(tmp_path / "loads")[0].partition(":")[0]))
    if what == "raise":
        assert isinstance(caught.value.__cause__, FileNotFoundError)
        assert isinstance(caught.value.__cause__.__cause__, WorkerTraceback)
        assert "in act" in str(caught.value.__cause__.__cause__)


async def test_a_template_that_takes_too_long_ends_the_start(tmp_path: Path) -> None:
    (tmp_path / "act").write_text("hang")
    with pytest.raises(StartTimeout, match=r"not ready in 0\.3 s: its template is still loading"):
        await Flow(Reader(), template=Loader(tmp_path), start_timeout=0.3).start_async()


async def test_a_cancelled_start_ends_a_template_that_is_loading(tmp_path: Path) -> None:
    (tmp_path / "act").write_text("hang")
    start = asyncio.create_task(Flow(Reader(), template=Loader(tmp_path)).start_async())
    await eventually(lambda: notes(tmp_path / "loads"))
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (templates.leave_thread, "after leave_thread a thread is still running in the template .*prefetcher"),
        (templates.initialise_cuda, "initialise_cuda has initialised CUDA in the template"),
    ],
)
async def test_what_does_not_work_in_a_fork_is_refused(template: Any, message: str) -> None:
    with pytest.raises(StartError, match=message):
        await Flow(Each(handlers.add_one), template=template).start_async()


async def test_a_value_that_nothing_keeps_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    async with running(Flow(Each(handlers.add_one), name="ocr", template=templates.lose)):
        assert "template of flow ocr returns a list that nothing keeps" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": 7}, "template of flow flow must be a function"),
        ({"template": templates.load_in_loop}, "must be a plain function"),
        ({"template": handlers.nothing, "mp_start_method": "forkserver"}, "leave mp_start_method out"),
    ],
)
def test_a_template_that_cannot_work_is_refused(options: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Flow(Reader(), **options)


@pytest.mark.parametrize("worker", [WorkerOptions(devices=["0"]), WorkerOptions(env={"TOKENIZERS_PARALLELISM": "0"})])
def test_variables_that_are_read_at_import_are_refused_beside_a_template(worker: WorkerOptions) -> None:
    with pytest.raises(ConfigurationError, match="has WorkerOptions with devices or env, and the flow a template"):
        Flow(FlowStep(Reader(), worker=worker), template=handlers.nothing)
    Flow(FlowStep(Reader(), worker=WorkerOptions(threads=2)), template=handlers.nothing)


async def test_a_template_that_cannot_travel_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="template of flow flow cannot be sent.*lambda"):
        await Flow(Reader(), template=lambda: None).start_async()


async def test_without_processes_the_function_is_called_in_this_one() -> None:
    try:
        async with inline(Flow(Reader(), template=templates.model)) as flow:
            job = await flow.process(Job())
            assert job.loaded_before
            assert template_pid(flow) == job.pid == os.getpid()
    finally:
        templates.model.cache_clear()
    with pytest.raises(StartError, match="the template of flow flow failed: FileNotFoundError"):
        await inline(Flow(Reader(), template=handlers.fail_to_load)).__aenter__()


async def test_workers_outlive_their_template_and_the_next_one_loads_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    step = FlowStep(Reader(), nprocs=2)
    async with running(Flow(step, name="ocr", template=Loader(tmp_path), timing=TIMING)) as flow:
        first, workers = template_pid(flow), pids(flow)
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: template_pid(flow) is None)
        assert f"the template of flow ocr (pid {first}) was killed by SIGKILL; its workers go on" in caplog.text
        assert set(await ask_each(flow)) == set(workers)
        (tmp_path / "act").write_text("raise")
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        await eventually(lambda: "no weights here" in caplog.text)
        (tmp_path / "act").unlink()
        await eventually(lambda: len(pids(flow)) == 2 and not set(pids(flow)) & set(workers))
        assert {job.parent for job in (await ask_each(flow)).values()} == {template_pid(flow)}
        statistics = flow.statistics()
        assert statistics.template is not None
        assert statistics.template.deaths == 1
        assert statistics.steps[0].failed_launches >= 1


def test_a_later_template_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    (tmp_path / "act").write_text("hang")
    keeper, lifeline = TemplateKeeper("ocr", start_timeout=0.2), Lifeline()
    loader = SpecMaker("ocr", [], template=Loader(tmp_path)).make_loader()
    keeper.set_programs(loader, [])
    ours, theirs = socket.socketpair()
    try:
        with pytest.raises(StartTimeout, match=r"template of flow ocr had not loaded in start_timeout=0\.2 s"):
            keeper.start(loader.program, theirs, Descriptors(0, 0, lifeline.read_fd, 0), {})
    finally:
        ours.close()
        theirs.close()
        keeper.close()
        lifeline.close()


async def test_a_stop_does_not_wait_for_a_template_that_is_loading(tmp_path: Path) -> None:
    async with running(Flow(FlowStep(Reader(), nprocs=2), template=Loader(tmp_path), timing=TIMING)) as flow:
        first = template_pid(flow)
        assert first is not None
        (tmp_path / "act").write_text("hang")
        os.kill(first, signal.SIGKILL)
        os.kill(pids(flow)[0], signal.SIGKILL)
        await eventually(lambda: len(notes(tmp_path / "loads")) == 2)
        loading = int(notes(tmp_path / "loads")[1].partition(":")[0])
        with Ends([loading]) as ends:
            await asyncio.wait_for(flow.stop(), DEADLINE)
            assert not ends.wait(DEADLINE)


async def test_a_worker_of_a_dead_template_is_replaced(tmp_path: Path) -> None:
    """Its exit status is lost with the template."""
    async with running(Flow(Each(handlers.enter_gate_if_any), template=handlers.nothing)) as flow:
        (worker,) = pids(flow)
        async with busy(flow, Gate(tmp_path)):
            os.kill(template_pid(flow) or 0, signal.SIGKILL)
            os.kill(worker, signal.SIGKILL)
            await eventually(lambda: pids(flow) not in ([], [worker]))


def test_descriptors_that_do_not_fit_leave_the_channel_usable() -> None:
    ours, theirs = (DescriptorChannel(sock) for sock in socket.socketpair())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = os.dup(0)
    os.close(highest)
    try:
        ours.send(b"first", [0, 1, 2])
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, hard))
        assert theirs.receive() == (b"first", [])
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        ours.send(b"second", [0])
        body, fds = theirs.receive()
        assert body == b"second"
        assert len(fds) == 1
        assert os.fstat(fds[0]) == os.fstat(0)
        os.close(fds[0])
        ours.close()
        with pytest.raises(EOFError):
            theirs.receive()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        ours.close()
        theirs.close()
