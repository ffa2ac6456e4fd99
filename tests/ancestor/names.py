"""Every public name of the package ``aqueduct`` 1.15: what its modules define, and the members of its classes."""

from __future__ import annotations

NAMES = {
    "": "Flow FlowStep BaseTaskHandler BaseTask log",
    "exceptions": "AqueductError FlowError MPStartMethodValueError NotRunningError BadReferenceCount",
    "flow": "FlowStep FlowState Flow",
    "handler": "HandleConditionType BaseTaskHandler",
    "integrations": "",
    "integrations.aiohttp": "AQUEDUCT_FLOW_NAMES FLOW_NAME FLOWS_OBSERVER FLOW_START_TIMEOUT_NAME"
    " FLOW_START_TIMEOUT_DEFAULT get_start_timeout observe_flows run_flows_observer stop_flows_observer stop_flows"
    " AppIntegrator",
    "integrations.fastapi": "AQUEDUCT_FLOW_NAMES FLOW_NAME observe_flows get_flow AppIntegrator",
    "integrations.utils": "FLOW_START_TIMEOUT_NAME FLOW_START_TIMEOUT_DEFAULT get_start_timeout",
    "integrations.zero": "BaseFlowClient",
    "logger": "LOGGER_NAME log formatter ch replace_logger",
    "metrics": "MAIN_PROCESS AQUEDUCT MetricsTypes IExtendable IMetricsItems MetricsItems Collector Exporter"
    " ToStatsDMetricsExporter",
    "metrics.base": "MAIN_PROCESS AQUEDUCT MetricsTypes IExtendable IMetricsItems MetricsItems",
    "metrics.collect": "TasksStats AqueductMetricsStorage Collector",
    "metrics.export": "TRANSFER_TIME_PREFIX TASK_SIZE_PREFIX HANDLE_TIME_PREFIX BATCH_TIME_PREFIX BATCH_SIZE_PREFIX"
    " QSIZE_PREFIX TASKS_PREFIX MEMORY_USAGE_PREFIX PROCESSES_PREFIX StatsDBuffer Exporter ToStatsDMetricsExporter"
    " DummyExporter",
    "metrics.manager": "MetricsManager get_metrics_manager",
    "metrics.processes": "ProcessesStats",
    "metrics.queue": "TaskMetricsQueue",
    "metrics.task": "TasksMetricsStorage TaskMetrics",
    "metrics.timer": "Timer TransferTimer timeit",
    "multiprocessing": "logger ProcessException ProcessRaisedException ProcessExitedException ProcessContext"
    " start_processes",
    "queues": "FlowStepQueue select_next_queue",
    "shm": "SharedFieldsMixin",
    "shm.base": "AtomicCounter SharedMemoryWrapper SharedData",
    "shm.bytes": "BytesSharedData",
    "shm.mixin": "HasReadany SharedFieldsMixin",
    "shm.numpy": "NPArraySharedData",
    "sockets": "",
    "sockets.connection_pool": "OpenConnectionError SocketServerError SocketConnectionPool",
    "sockets.flow": "SocketFlow",
    "sockets.flow_server": "SOCKET_ERROR FLOW_ERROR FlowSocketServer",
    "sockets.protocol": "SocketResponse SocketProtocol",
    "task": "DEFAULT_PRIORITY BaseTask StopTask",
    "utils": "get_env_with_prefix",
    "worker": "MAX_SPIN_ITERATIONS Worker",
}
"""The names of each module."""

MEMBERS = {
    "exceptions.AqueductError": "",
    "flow.Flow": "state is_running are_steps_initialized need_collect_task_timers start init_processes start_inited"
    " process stop",
    "flow.FlowState": "RUNNING STARTING STOPPING STOPPED STEPS_INITIALIZED",
    "handler.BaseTaskHandler": "get_step_name on_start handle",
    "integrations.aiohttp.AppIntegrator": "add_flow",
    "integrations.fastapi.AppIntegrator": "add_flow",
    "integrations.zero.BaseFlowClient": "connect disconnect process",
    "metrics.base.MetricsTypes": "TASK_TIMERS QUEUE_SIZE",
    "metrics.base.IExtendable": "extend",
    "metrics.base.IMetricsItems": "items",
    "metrics.base.MetricsItems": "items add add_items extend",
    "metrics.collect.TasksStats": "cancel timeout complete items extend",
    "metrics.collect.AqueductMetricsStorage": "extend extend_memory_usage",
    "metrics.collect.Collector": "is_collectible collect_qsize add_task_metrics add_tasks_stats add_memory_usage"
    " add_processes_stats extract_metrics",
    "metrics.export.StatsDBuffer": "count timing gauge",
    "metrics.export.Exporter": "export",
    "metrics.manager.MetricsManager": "start stop",
    "metrics.processes.ProcessesStats": "dead running items extend add_dead_process add_running_process",
    "metrics.task.TasksMetricsStorage": "extend",
    "metrics.timer.Timer": "precision start stop seconds",
    "multiprocessing.ProcessContext": "pids join join_all",
    "sockets.flow.SocketFlow": "preload start stop process",
    "task.BaseTask": "task_id priority expiration_time metrics set_timeout set_priority is_expired update share_value"
    " share_value_with_data",
}
"""The members of the classes that exist here, too; of the others none are asked for."""

ARGUMENTS = {
    "flow.Flow": "metrics_enabled metrics_collector metrics_exporter queue_size queue_priorities mp_start_method",
    "flow.Flow.start": "timeout",
    "flow.Flow.init_processes": "timeout",
    "flow.Flow.process": "task timeout_sec",
    "flow.Flow.stop": "graceful",
    "flow.FlowStep": "handler handle_condition nprocs batch_size batch_timeout on_start_wait",
    "handler.BaseTaskHandler.get_step_name": "step_number",
    "integrations.aiohttp.AppIntegrator": "app exit_on_fail logger",
    "integrations.aiohttp.AppIntegrator.add_flow": "flow flow_name with_start",
    "integrations.aiohttp.observe_flows": "app check_interval",
    "integrations.fastapi.AppIntegrator": "app exit_on_fail logger",
    "integrations.fastapi.AppIntegrator.add_flow": "flow flow_name with_start",
    "integrations.fastapi.get_flow": "flow_name",
    "integrations.fastapi.observe_flows": "flows check_interval",
    "logger.replace_logger": "logger",
    "metrics.base.MetricsItems": "items",
    "metrics.collect.Collector": "collectible_metrics qsize_collect_period",
    "metrics.export.DummyExporter": "target",
    "metrics.export.Exporter": "target export_period prefix",
    "metrics.export.ToStatsDMetricsExporter": "target export_period prefix",
    "sockets.flow.SocketFlow": "name",
    "sockets.flow.SocketFlow.preload": "flow timeout",
    "sockets.flow.SocketFlow.process": "tasks timeout_sec",
    "task.BaseTask.set_priority": "priority",
    "task.BaseTask.set_timeout": "timeout_sec",
    "task.BaseTask.share_value": "field_name",
    "task.BaseTask.share_value_with_data": "field_name content size",
    "task.BaseTask.update": "source_task excluded_fields",
}
"""The arguments of what a user calls."""
