"""Runs some steps of a flow in worker processes."""

from __future__ import annotations

from collections.abc import Collection

from ..engine.engine import LocalEngine
from ..flow import Flow
from ..worker_function import InWorkers, flow_of
from .substitute import Substitute, step_choice


def in_processes(flow: Flow | InWorkers, *, steps: Collection[str]) -> Substitute:
    """Run some steps of a flow in worker processes, for a recorded task (`read_task`) that ends its worker.

        async with in_processes(flow, steps=["read"]):
            await flow.process(read_task("read.task"), timeout_sec=60)

    Args:
        flow: The flow, the function of `in_worker`, or the pool; it must not run yet.
        steps: Names of the steps that tasks visit, in groups as they are declared.

    Returns:
        A context manager, for ``with`` and ``async with``; its value is the flow.

    Raises:
        UnknownStep: The flow has no such step.
    """
    replaced = flow_of(flow)
    choose = step_choice(replaced, steps)
    return Substitute(replaced, lambda options: LocalEngine.build(choose(options)), records=False)
