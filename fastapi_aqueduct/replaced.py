"""The names of the package aqueduct that have no counterpart here, and what replaces each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NoReturn

from .exceptions import AqueductError

_WORKER = "a flow starts its workers itself; a handler has on_start, handle and on_stop"
_QUEUE = "a flow has its own queues, whose lengths are in flow.statistics() and in the metrics"
_SHARED = "BaseTask.share_value moves a field into shared memory, and large arrays and bytes go there without it"
_SERVER = (
    "SocketFlow.preload, `fastapi-aqueduct serve MODULE:FLOW --socket PATH`, or Aqueduct(flow, pipeline=\"host\") run "
    "one pipeline for several processes"
)
_CONNECTION = "each process has one connection, which SocketFlow.start opens"
_DIED = "a task whose worker dies is tried again, and ends with WorkerDied after that; a failed start raises StartError"
_LOGGING = "the package only logs to its logger; handlers, formats and levels are those of the application's logging"

REPLACED: Mapping[str, Mapping[str, str]] = {
    "logger": {"formatter": _LOGGING, "ch": _LOGGING},
    "metrics.manager": {"get_metrics_manager": "Flow(metrics_collector=, metrics_exporter=) makes its own manager"},
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
    "utils": {"get_env_with_prefix": 'it joined a prefix and a name with "_"'},
    "worker": {"MAX_SPIN_ITERATIONS": "FlowStep(busy_poll=...) has workers poll", "Worker": _WORKER},
}
"""The advice for each name, by the name of the module in the package."""


class ReplacedName(AqueductError, ImportError):
    """A name of the package aqueduct was imported that has no counterpart; the message says what replaces it."""


def names_of(module: str) -> Callable[[str], NoReturn]:
    """Return the ``__getattr__`` of a module, which says what replaces a name.

    Args:
        module: Name of the module, as in its ``__name__``.
    """
    package, _, place = module.partition(".")
    advice = REPLACED[place]

    def find(name: str) -> NoReturn:
        if name not in advice:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        raise ReplacedName(f"{package} has no {name} of aqueduct.{place}: {advice[name]}", name=name)

    return find
