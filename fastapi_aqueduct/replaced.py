"""The names of the package aqueduct that have no counterpart here, and what replaces each of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import NoReturn, TypeVar

from .exceptions import AqueductError

C = TypeVar("C", bound=type)

_WORKER = "a flow starts its workers itself; a handler has on_start, handle and on_stop"
_QUEUE = "a flow has its own queues, whose lengths are in flow.statistics() and in the metrics"
_SHARED = "BaseTask.share_value moves a field into shared memory, and large arrays and bytes go there without it"
_SERVER = (
    "SocketFlow.preload, `fastapi-aqueduct serve MODULE:FLOW --socket PATH`, or Aqueduct(flow, pipeline=\"host\") run "
    "one pipeline for several processes"
)
_CONNECTION = "each process has one connection, which SocketFlow.start opens"
_DIED = "a task whose worker dies is tried again, and ends with WorkerDied after that; a failed start raises StartError"
_MANAGER = "a flow starts and stops its own manager: Flow(metrics_collector=, metrics_exporter=)"
_TIMES = "task.metrics has steps, the times of the task in each step, and total_time; collectors get the lists"
_END = "process.exitcode of its processes says how each has ended"
_LOGGING = "the package only logs to its logger; handlers, formats and levels are those of the application's logging"

REPLACED: Mapping[str, Mapping[str, str]] = {
    "logger": {"formatter": _LOGGING, "ch": _LOGGING},
    "metrics.manager": {"get_metrics_manager": _MANAGER},
    "metrics.queue": {"TaskMetricsQueue": _QUEUE},
    "metrics.task": {
        "TaskMetrics": "task.metrics has the times of a task: steps and total_time; see fastapi_aqueduct.reports",
    },
    "metrics.timer": {"TransferTimer": "task.metrics.steps has the queue_time of a task before each step"},
    "multiprocessing": {
        "ProcessException": _DIED,
        "ProcessExitedException": _DIED,
        "ProcessRaisedException": _DIED,
        "logger": "the package has one logger, fastapi_aqueduct.logger.log",
        "start_processes": _WORKER,
    },
    "queues": {"FlowStepQueue": _QUEUE, "select_next_queue": "FlowStep(handle_condition=...) chooses the next step"},
    "shm": {"SharedFieldsMixin": _SHARED},
    "shm.base": {"AtomicCounter": _SHARED, "SharedData": _SHARED, "SharedMemoryWrapper": _SHARED},
    "shm.bytes": {"BytesSharedData": _SHARED},
    "shm.mixin": {
        "HasReadany": "fastapi_aqueduct.task.Readany is the type of a stream with readany()",
        "SharedFieldsMixin": _SHARED,
    },
    "shm.numpy": {"NPArraySharedData": _SHARED},
    "sockets.connection_pool": {
        "OpenConnectionError": "SocketFlow.start raises StartError or StartTimeout",
        "SocketConnectionPool": _CONNECTION,
        "SocketServerError": "SocketFlow.process raises what Flow.process raises",
    },
    "sockets.flow_server": {
        "FLOW_ERROR": "SocketFlow.process raises what Flow.process raises",
        "FlowSocketServer": _SERVER,
        "SOCKET_ERROR": "SocketFlow.process raises what Flow.process raises",
    },
    "sockets.protocol": {"SocketProtocol": _CONNECTION, "SocketResponse": _CONNECTION},
    "utils": {"get_env_with_prefix": 'write f"{prefix}_{name}"'},
    "worker": {"MAX_SPIN_ITERATIONS": "FlowStep(busy_poll=...) has workers poll", "Worker": _WORKER},
}
"""The advice for each name, by the name of the module in the package."""


REPLACED_MEMBERS: Mapping[str, Mapping[str, str]] = {
    "metrics.collect.Collector": {"collect_qsize": "add_queue_sizes gets the numbers, and may be overridden"},
    "metrics.manager.MetricsManager": dict.fromkeys(("collector", "exporter", "start", "stop"), _MANAGER),
    "metrics.task.TaskMetrics": dict.fromkeys(
        ("batch_sizes", "batch_times", "extend", "handle_times", "task_sizes", "transfer_times"), _TIMES
    ),
    "multiprocessing.ProcessContext": {"error_queues": _END, "sentinels": _END},
}
"""The advice for members of classes, by the module and the name of the class."""


class ReplacedName(AqueductError, ImportError):
    """A name of the package aqueduct was imported that has no counterpart; the message says what replaces it."""


class ReplacedMember(AqueductError, AttributeError):
    """A member of a class of aqueduct was read that has no counterpart; the message says what replaces it."""


def explain_names(module: str) -> None:
    """Have a module say what replaces the names of aqueduct that it does not have.

    Args:
        module: Name of the module, as in its ``__name__``.
    """
    package, _, place = module.partition(".")
    advice = REPLACED[place]

    def find(name: str) -> NoReturn:
        if name not in advice:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        raise ReplacedName(f"{package} has no {name} of aqueduct.{place}: {advice[name]}", name=name)

    # Not a function in the module itself, for which mypy would take any name to exist there.
    sys.modules[module].__dict__["__getattr__"] = find


def explain_members(path: str) -> Callable[[C], C]:
    """Have the objects of a class say what replaces the members of aqueduct that they do not have.

    Args:
        path: The module and the name of the class in aqueduct.

    Returns:
        A decorator of the class.
    """
    advice = REPLACED_MEMBERS[path]

    def find(self: object, name: str) -> NoReturn:
        text = f"{type(self).__name__!r} object has no attribute {name!r}"
        if name not in advice:
            raise AttributeError(text, name=name, obj=self)
        raise ReplacedMember(f"{text}, which aqueduct has: {advice[name]}", name=name, obj=self)

    def decorate(cls: C) -> C:
        setattr(cls, "__getattr__", find)  # noqa: B010
        return cls

    return decorate
