"""The spans of traced tasks in an API process whose pipeline is another process."""

from __future__ import annotations

from ..scheduling.spans import Spans
from ..scheduling.ticket import Ticket
from ..wire.codec import Encoded
from ..wire.extras import pack_extras, unpack_extras


class ClientSpans(Spans):
    """Makes the spans of a task when its answer tells where it has been.

    The span of a step does not exist yet while a worker has the task: spans that its handler makes are children of the
    span in which the task was sent.
    """

    def begin_task(self, task: int, content: Encoded) -> Encoded:
        """Begin the spans of a task that is submitted in the present context, if it is traced.

        Args:
            task: Its number.
            content: The task as it travels.

        Returns:
            The same, with the trace context.
        """
        self.add(task)
        spans = self.open.get(task)
        trace = None if spans is None else self._report(task, lambda: spans.parent)
        if not trace:
            return content
        return content._replace(extras=pack_extras(unpack_extras(content.extras).values, trace))

    def end(self, ticket: Ticket, outcome: str, error: BaseException | None) -> None:
        """End the spans of a task. One that has ended before its first answer has waited, as far as this process knows.

        Args:
            ticket: The task.
            outcome: How it has ended.
            error: Its error, if it has one.
        """
        spans = self.open.pop(ticket.id, None)
        if spans is not None:
            waiting_since = None if ticket.metrics else ticket.started_at
            self._report(ticket.id, spans.end, self._steps[ticket.step], waiting_since, outcome, error)

    def note_records(self, ticket: Ticket) -> None:
        """Make the spans of the steps that a task has visited."""
        for step, pid, arrived_at, sent_at, answered_at, duration, size, *_ in ticket.metrics:
            spans = self.open.get(ticket.id)
            if spans is not None:
                self._report(ticket.id, spans.send, ticket.id, step, pid, arrived_at, sent_at, None)
                self._report(ticket.id, spans.answer, size, duration, answered_at)
