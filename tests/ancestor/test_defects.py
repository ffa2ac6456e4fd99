"""The package ``aqueduct`` 1.15 has these defects; each test shows that ours is the better behaviour.

The number in a name is that of the defect in the study of that package. Those of its HTTP integration are in the tests
of ours, and those of its socket server in `test_socket_flow`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastapi_aqueduct import Flow, FlowStep, StartError, TaskNotPicklable, TaskTimeout

from .. import handlers
from ..handlers import Each, Gate, Job, Keeper, Starting, notes
from ..support import (
    DEADLINE,
    Ends,
    LongestGap,
    blocks,
    busy,
    eventually,
    forked,
    outcome,
    pids,
    run_script,
    running,
    script_environment,
    write_script,
)

MIB = 1 << 20


def test_c02_a_flow_started_before_the_loop_of_the_server_serves_in_it() -> None:
    flow = Flow(Each(handlers.add_one))

    async def serve() -> list[int]:
        try:
            return [task.number for task in await asyncio.gather(*[flow.process(Job(number=n)) for n in range(20)])]
        finally:
            await flow.stop()

    flow.start()  # where there is no loop yet
    assert asyncio.run(serve()) == list(range(1, 21))


async def test_c03_one_bad_input_fails_alone_with_its_own_exception(tmp_path: Path) -> None:
    async with running(Flow(FlowStep(Each(handlers.raise_if_bad, handlers.enter_gate_if_any), nprocs=2))) as flow:
        gate = Gate(tmp_path)
        innocent = asyncio.create_task(flow.process(Job(is_bad=False, gate=gate), 60))
        await eventually(gate.is_entered)
        with pytest.raises(ValueError, match="bad"):
            await flow.process(Job(is_bad=True))
        gate.open()
        await innocent
        await flow.process(Job(is_bad=False))


async def test_c03_the_death_of_a_worker_neither_stops_the_flow_nor_blocks_the_loop(tmp_path: Path) -> None:
    step = FlowStep(Each(handlers.enter_gate_if_any, handlers.tell_pid), nprocs=4)
    async with running(Flow(step)) as flow:
        async with LongestGap() as gap:
            os.kill(pids(flow)[0], signal.SIGKILL)
            await eventually(lambda: flow.statistics().steps[0].restarts == 1)
            assert (await flow.process(Job())).pid
            await eventually(lambda: len(pids(flow)) == 4)
        assert flow.is_running
        assert gap.seconds < 1.0


async def test_c04_what_a_handler_does_to_a_shared_field_reaches_the_caller() -> None:
    steps = {
        "replaced": handlers.replace_image,
        "written in place": handlers.write_into_image,
        "dropped": handlers.drop_image,
        "replaced and shared": handlers.share_anew,
    }
    async with running(Flow(*[FlowStep(Each(f), handlers.Chosen(name)) for name, f in steps.items()])) as flow:
        seen = {}
        for name in steps:
            task = Job(image=np.zeros(4, np.uint8), choice=name)
            task.share_value("image")
            await flow.process(task)
            seen[name] = None if task.image is None else task.image.tolist()
            del task
        assert seen == {
            "replaced": [1, 1, 1, 1],
            "written in place": [7, 7, 7, 7],
            "dropped": None,
            "replaced and shared": [5, 5, 5, 5],
        }


async def test_c04_a_shared_bytearray_that_a_handler_changes_reaches_the_caller() -> None:
    async with running(Flow(Each(handlers.change_payload))) as flow:
        task = Job(payload=bytearray(8))
        task.share_value("payload")
        await flow.process(task)
        assert task.payload == b"HEAD\0\0\0\0"
        del task


async def test_c05_eight_idle_workers_stop_in_half_a_second_and_the_loop_goes_on() -> None:
    gaps, times = [], []
    for _ in range(10):  # another program may take the processor away meanwhile
        flow = forked(FlowStep(Each(handlers.pass_on), nprocs=8))
        await flow.start_async()
        async with LongestGap() as gap:
            started = time.monotonic()
            await flow.stop()
            times.append(time.monotonic() - started)
        gaps.append(gap.seconds)
        if times[-1] < 0.5 and gaps[-1] < 0.1:
            return
    pytest.fail(f"stopping took {times} s and blocked the loop for {gaps} s")


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_c05_a_flow_that_nobody_stopped_does_not_keep_the_interpreter(tmp_path: Path, method: str) -> None:
    source = f"""
        from fastapi_aqueduct import Flow
        from tests.handlers import Each, pass_on

        flow = Flow(Each(pass_on), mp_start_method="{method}")
        if __name__ == "__main__":
            flow.start()
            print("started")
    """
    assert run_script(tmp_path, source) == "started\n"


SERVICE = """
    import asyncio, sys
    from fastapi_aqueduct import Flow, FlowStep
    from tests.handlers import Each, Job, spin

    async def main():
        flow = Flow(FlowStep(Each(spin), nprocs=2), mp_start_method={method!r})
        await flow.start_async()
        if {busy}:
            for name in "ab":
                asyncio.ensure_future(flow.process(Job(path=name), 300))
        print(*[worker.pid for step in flow.statistics().steps for worker in step.workers])
        await asyncio.Event().wait()

    if __name__ == "__main__":
        asyncio.run(main())
"""


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
async def test_c06_workers_end_with_the_process_they_work_for(tmp_path: Path, method: str, busy: bool) -> None:
    script = write_script(tmp_path, SERVICE.format(method=method, busy=busy))
    with subprocess.Popen(
        [sys.executable, script.name], cwd=tmp_path, env=script_environment(), stdout=subprocess.PIPE, text=True
    ) as service:
        try:
            assert service.stdout is not None
            workers = [int(pid) for pid in service.stdout.readline().split()]
            assert len(workers) == 2
            if busy:
                await eventually(lambda: all((tmp_path / name).exists() for name in "ab"))
            with Ends(workers) as ends:
                service.kill()
                assert ends.wait(1.0) == set()
        finally:
            service.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
async def test_c06_workers_do_not_hold_the_port_of_the_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.set_inheritable(True)  # as servers with several processes do
        async with running(Flow(FlowStep(Each(handlers.pass_on), nprocs=2))) as flow:
            listening = os.readlink(f"/proc/self/fd/{server.fileno()}")
            for pid in pids(flow):
                descriptors = Path(f"/proc/{pid}/fd").iterdir()
                assert listening not in {os.readlink(descriptor) for descriptor in descriptors}


async def test_c07_a_failing_on_start_ends_the_start_at_once_with_its_cause() -> None:
    flow = Flow(Starting(handlers.fail_to_load), Starting(handlers.never_end), start_timeout=300)
    with pytest.raises(StartError, match="no model here") as caught:
        await asyncio.wait_for(flow.start_async(), DEADLINE / 2)
    assert isinstance(caught.value.__cause__, FileNotFoundError)


async def test_c09_python_memory_is_flat_over_thousands_of_tasks() -> None:
    async with running(Flow(FlowStep(Each(handlers.add_one), batch_size=4), Each(handlers.add_one))) as flow:

        async def process(count: int) -> None:
            for _ in range(count // 50):
                await asyncio.gather(*[flow.process(Job(number=1), DEADLINE) for _ in range(50)])

        await process(1000)
        before = [resident(pid) for pid in pids(flow, 0) + pids(flow, 1)]
        tracemalloc.start()
        try:
            await process(500)
            base = tracemalloc.get_traced_memory()[0]
            await process(5000)
            grown = tracemalloc.get_traced_memory()[0] - base
        finally:
            tracemalloc.stop()
        assert grown < 200_000  # 40 bytes per task would be 200,000
        after = [resident(pid) for pid in pids(flow, 0) + pids(flow, 1)]
        assert all(now - then < 2 * MIB for now, then in zip(after, before, strict=True))


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_c10_what_cannot_be_pickled_is_told_at_once_and_not_as_a_timeout() -> None:
    async with running(Flow(Each(handlers.set_unpicklable))) as flow:
        for task in (Job(lock=threading.Lock()), Job()):
            with pytest.raises(TaskNotPicklable, match=r"Job\.lock of type lock"):
                await asyncio.wait_for(flow.process(task, 300), DEADLINE / 2)


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /dev/shm elsewhere")
async def test_c11_the_size_of_dev_shm_does_not_matter() -> None:
    def free() -> int:
        status = os.statvfs("/dev/shm")
        return status.f_bavail * status.f_frsize

    async with running(Flow(Each(handlers.sum_up))) as flow:
        before = free()
        task = Job(image=np.ones(100 * MIB, np.uint8))
        task.share_value("image")
        assert (await flow.process(task, DEADLINE)).total == 100 * MIB
        assert before - free() < 50 * MIB
        del task


async def test_c12_shared_arrays_are_aligned() -> None:
    async with running(Flow(Each(handlers.describe_image))) as flow:
        for dtype in (np.float64, np.int64, np.complex128):
            task = Job(odd=b"x" * 33_333, image=np.zeros(1001, dtype))
            task.share_value("odd")
            task.share_value("image")
            await flow.process(task)
            assert task.seen["aligned"]
            assert task.seen["address"] % 64 == 0
            assert task.image.__array_interface__["data"][0] % 64 == 0
            del task


async def test_c13_arrays_of_objects_are_never_shared_as_pointers() -> None:
    objects = np.array([{"k": "vvvvv"}], dtype=object)
    async with running(Flow(Each(handlers.pass_on))) as flow:
        task = Job(image=objects)
        with pytest.raises(ValueError, match="array of Python objects"):
            task.share_value("image")
        await flow.process(task)
        assert task.image[0] == {"k": "vvvvv"}


async def test_c14_bytes_that_nobody_touches_are_copied_by_nobody() -> None:
    steps = [Each(handlers.tell_whether_copied) for _ in range(3)]
    async with running(Flow(*steps)) as flow:
        task = Job(payload=b"x" * (32 * MIB))
        task.share_value("payload")
        await flow.process(task, DEADLINE)
        assert task.was_copied is False
        assert blocks(flow) == 1
        assert task.payload == b"x" * (32 * MIB)
        del task


async def test_c15_waiting_for_a_place_costs_no_processor_time(tmp_path: Path) -> None:
    async with running(Flow(Each(handlers.enter_gate_if_any), queue_size=1)) as flow:
        async with busy(flow, Gate(tmp_path)):
            started, used = time.monotonic(), time.process_time()
            # Nothing happens but the deadlines, all at the end.
            ended = await asyncio.gather(*[outcome(flow.process(Job(), 1.5)) for _ in range(300)])
            elapsed, used = time.monotonic() - started, time.process_time() - used
        assert {type(end) for end in ended} == {TaskTimeout}
        assert used < elapsed / 2


async def test_c16_low_priorities_come_to_their_turn_under_steady_high_load() -> None:
    async with running(Flow(Each(handlers.work_a_while), queue_priorities=2)) as flow:
        done = asyncio.Event()

        async def keep_busy() -> None:
            while not done.is_set():
                task = Job()
                task.set_priority(1)
                await flow.process(task, 60)

        clients = [asyncio.create_task(keep_busy()) for _ in range(6)]
        await eventually(lambda: flow.statistics().steps[0].queued >= 4)
        low = asyncio.create_task(flow.process(Job(), 15))
        await asyncio.wait([low])
        done.set()
        await asyncio.gather(*clients)
        assert (await low).metrics.total_time < 15


async def test_c17_a_task_whose_caller_has_gone_does_not_run(tmp_path: Path) -> None:
    path = tmp_path / "ran"
    async with running(Flow(Each(handlers.enter_gate_if_any, handlers.write_down))) as flow:
        gate = Gate(tmp_path)
        held = asyncio.create_task(flow.process(Job(number=0, path=path, gate=gate), 60))
        await eventually(gate.is_entered)
        clients = [asyncio.create_task(flow.process(Job(number=n, path=path), 60)) for n in range(1, 6)]
        await eventually(lambda: flow.statistics().steps[0].queued == 5)
        for client in clients:
            client.cancel()
        gate.open()
        await held
        await flow.process(Job(number=6, path=path))
    assert notes(path) == ["0", "6"]


async def test_c19_deadlines_that_pass_in_the_same_moment_as_the_answer_comes_are_no_errors() -> None:
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    async with running(Flow(FlowStep(Each(handlers.pass_on), nprocs=2), Each(handlers.pass_on))) as flow:
        ended: list[type] = []

        async def client(number: int) -> None:
            for round_number in range(60):
                timeout = 0.0005 * (1 + (number + round_number) % 12)
                ended.append(type(await outcome(flow.process(Job(), timeout))))

        await asyncio.gather(*[client(number) for number in range(20)])
        assert len(ended) == 1200
        assert TaskTimeout in ended
        assert flow.statistics().in_flight == 0
        assert (await flow.process(Job(), DEADLINE)).metrics.total_time > 0
    assert not errors


async def test_c20_a_dead_worker_returns_what_it_held(tmp_path: Path) -> None:
    async with running(Flow(Keeper(), Each(handlers.enter_gate_if_any))) as flow:
        for _ in range(3):
            await flow.process(Job(image=np.ones(50_000, np.uint8), keep=True, let_go=False))
        assert blocks(flow) == 3
        os.kill(pids(flow)[0], signal.SIGKILL)
        await eventually(lambda: blocks(flow) == 0)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
async def test_c21_a_lock_that_a_thread_of_the_server_holds_does_not_hinder_the_start(method: Any) -> None:
    """Forked workers would inherit the lock as it is: held, by a thread that they do not have."""
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with handlers.LOCK:
            held.set()
            release.wait(DEADLINE)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        async with running(Flow(Starting(handlers.take_lock), mp_start_method=method)) as flow:
            assert (await flow.process(Job())).pid in pids(flow)
    finally:
        release.set()
        thread.join()


async def test_c22_handlers_may_start_processes_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    async with running(Flow(Each(handlers.fork_a_child))) as flow:
        task = await flow.process(Job(path=path), DEADLINE)
        assert task.exit_code == 0
    assert notes(path) == ["child"]


async def test_c22_nothing_is_left_of_a_task_that_was_refused() -> None:
    async with running(Flow(Each(handlers.pass_on), queue_priorities=2)) as flow:
        timeouts: list[Any] = [1.0, None, 0.0]
        for task, timeout in zip((Job(lock=threading.Lock()), Job(), Job()), timeouts, strict=True):
            assert isinstance(await outcome(flow.process(task, timeout)), Exception)
        far = Job()
        far.set_priority(99)
        await flow.process(far)
        assert flow.statistics().in_flight == 0


async def test_c22_work_writes_nothing_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with running(Flow(Each(handlers.pass_on))) as flow:
        with caplog.at_level(logging.DEBUG):
            caplog.clear()
            await asyncio.gather(*[flow.process(Job()) for _ in range(20)])
            assert caplog.records == []


async def test_c22_a_task_shows_itself_in_a_line_whatever_it_carries() -> None:
    assert len(repr(Job(payload=b"x" * MIB, image=np.zeros(MIB)))) < 200
