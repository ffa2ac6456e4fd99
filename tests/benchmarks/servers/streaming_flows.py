"""The token model as flows of fastapi_aqueduct."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep

from .token_model import MAX_BATCH, TOKEN, Prompt, generate, report_end, run_step


class Generation(BaseTask):
    """Tokens that are to be made."""

    def __init__(self, prompt: Prompt) -> None:
        super().__init__()
        self.left = prompt.count
        self.step = prompt.step
        self.report_to = prompt.report_to


def send_tokens(live: list[Generation]) -> None:
    """Send what a step of the model has made."""
    for task in live:
        task.emit(TOKEN)
        task.left -= 1
        if not task.left:
            task.finish()


class Continuous(BaseTaskHandler):
    """Tasks join and leave in each step of the model."""

    def handle(self, *tasks: Generation) -> None:
        for live in self.rounds(tasks):
            run_step(max(task.step for task in live))
            send_tokens(live)


class Watched(BaseTaskHandler):
    """The same; it reports when a task has left."""

    def handle(self, *tasks: Generation) -> None:
        ports: dict[str, int] = {}
        for live in self.rounds(tasks):
            ports |= {task.task_id: task.report_to for task in live}
            for left in ports.keys() - {task.task_id for task in live}:
                report_end(ports.pop(left))
            run_step(max(task.step for task in live))
            send_tokens(live)
        for port in ports.values():
            report_end(port)


class Generate(BaseTaskHandler):
    """Each task has a generator of its own; they take turns."""

    def handle(self, task: Generation) -> Iterator[str]:
        return (yield from generate(task.left, task.step, task.report_to))


FLOWS: dict[str, Callable[[], Flow]] = {
    "continuous": lambda: Flow(FlowStep(Continuous(), batch_size=MAX_BATCH, continuous=True)),
    "watched": lambda: Flow(FlowStep(Watched(), batch_size=MAX_BATCH, continuous=True)),
    "generators": lambda: Flow(FlowStep(Generate(), concurrency=MAX_BATCH)),
}
"""What makes the flow of each work; nothing is started here."""
