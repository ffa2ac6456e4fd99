"""The dashboard of the documentation: its panels, and the JSON that Grafana imports."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef, VariableRefresh, VariableSort

from ..support import ROOT

FILE = ROOT / "docs" / "monitoring" / "dashboard.json"

SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")

FLOW = 'flow=~"$flow"'
STEP = 'flow=~"$flow", step=~"$step"'
RATE = "[$__rate_interval]"
BY_FLOW = "{{flow}}"
BY_STEP = "{{flow}} {{step}}"

WIDTH = 24
"""Columns of a dashboard."""


@dataclass(frozen=True)
class Query:
    """An expression and the legend of its series."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """A graph.

    Attributes:
        title: What it shows.
        unit: Unit of its values, as Grafana calls it.
        description: How to read it.
        queries: Its expressions.
    """

    title: str
    unit: str
    description: str
    queries: tuple[Query, ...]


def quantiles(histogram: str, labels: str, by: str, legend: str) -> tuple[Query, ...]:
    """Return the median and the 99th percentile of a histogram."""
    rates = f"sum by (le, {by}) (rate({histogram}_bucket{{{labels}}}{RATE}))"
    return tuple(
        Query(f"histogram_quantile({quantile}, {rates})", f"{legend} {name}")
        for quantile, name in ((0.5, "median"), (0.99, "99 %"))
    )


def of_steps(histogram: str) -> tuple[Query, ...]:
    """Return median and 99th percentile of a histogram of each step."""
    return quantiles(histogram, STEP, "flow, step", BY_STEP)


def of_flows(histogram: str) -> tuple[Query, ...]:
    """Return median and 99th percentile of a histogram of each flow."""
    return quantiles(histogram, FLOW, "flow", BY_FLOW)


def rate(counter: str, labels: str, by: str, legend: str) -> Query:
    """Return how much a counter goes up each second."""
    return Query(f"sum by ({by}) (rate({counter}{{{labels}}}{RATE}))", legend)


def total(gauge: str, labels: str, by: str, legend: str) -> Query:
    """Return a gauge, summed over all processes of the server."""
    return Query(f"sum by ({by}) ({gauge}{{{labels}}})", legend)


def highest(gauge: str, labels: str, by: str, legend: str) -> Query:
    """Return a gauge that processes of the server cannot add up: the highest value."""
    return Query(f"max by ({by}) ({gauge}{{{labels}}})", legend)


def ratio(part: str, whole: str) -> Query:
    """Return how much one counter of each step goes up in relation to another."""
    above, below = (f"sum by (flow, step) (rate({name}{{{STEP}}}{RATE}))" for name in (part, whole))
    return Query(f"{above} / {below}", BY_STEP)


ROWS: dict[str, tuple[Panel, ...]] = {
    "Traffic": (
        Panel(
            "Tasks by outcome",
            "ops",
            "Tasks that have ended, each second.",
            (rate("aqueduct_tasks_total", FLOW, "flow, outcome", "{{flow}} {{outcome}}"),),
        ),
        Panel(
            "Tasks in flight",
            "short",
            "Tasks that have begun and not ended, waiting or handled.",
            (total("aqueduct_tasks_in_flight", FLOW, "flow", BY_FLOW),),
        ),
        Panel(
            "Refusals",
            "ops",
            "Requests that were refused, each second, by reason.",
            (rate("aqueduct_refusals_total", FLOW, "flow, reason", "{{flow}} {{reason}}"),),
        ),
    ),
    "Latency": (
        Panel(
            "From the call to the answer",
            "s",
            "Of completed tasks: all waits, transfers and calls together.",
            of_flows("aqueduct_total_time_seconds"),
        ),
        Panel(
            "Calls of the handler",
            "s",
            "Of one call, with its whole batch.",
            of_steps("aqueduct_handle_time_seconds"),
        ),
        Panel(
            "Transfer to the worker and back",
            "s",
            "With encoding and decoding in the worker.",
            of_steps("aqueduct_transfer_time_seconds"),
        ),
    ),
    "Queues and batches": (
        Panel(
            "Tasks in the queue",
            "short",
            "Of each step. A step before a full queue gets no tasks.",
            (total("aqueduct_queue_length", STEP, "flow, step", BY_STEP),),
        ),
        Panel(
            "Wait in the queue",
            "s",
            "From the arrival at a step until the task is sent to a worker.",
            of_steps("aqueduct_queue_wait_seconds"),
        ),
        Panel(
            "Tasks of a batch",
            "short",
            "Mean number of tasks in a call of the handler.",
            (ratio("aqueduct_batch_size_sum", "aqueduct_batch_size_count"),),
        ),
        Panel(
            "Delay of batches",
            "s",
            "For which a batch waited for more tasks while a worker was idle.",
            of_steps("aqueduct_batch_delay_seconds"),
        ),
    ),
    "Workers": (
        Panel(
            "Busy share",
            "percentunit",
            "Part of the time of ready workers in which they work. Near 100 % the step needs more processes.",
            (ratio("aqueduct_busy_seconds_total", "aqueduct_ready_seconds_total"),),
        ),
        Panel(
            "Expected wait",
            "s",
            "Time until a new task should leave the step. Scale by it: it grows before requests are refused.",
            (highest("aqueduct_expected_wait_seconds", STEP, "flow, step", BY_STEP),),
        ),
        Panel(
            "Workers by state",
            "short",
            "Worker processes.",
            (total("aqueduct_workers", STEP, "flow, step, state", BY_STEP + " {{state}}"),),
        ),
        Panel(
            "Processor time",
            "short",
            "Cores that the workers of a step use.",
            (rate("aqueduct_worker_cpu_seconds_total", STEP, "flow, step", BY_STEP),),
        ),
    ),
    "Elastic steps": (
        Panel(
            "Workers wanted",
            "short",
            "Workers that a step should have now (Autoscale and step.scale change it), and those that are ready.",
            (
                total("aqueduct_workers_wanted", STEP, "flow, step", BY_STEP + " wanted"),
                total("aqueduct_workers", STEP + ', state="ready"', "flow, step", BY_STEP + " ready"),
            ),
        ),
        Panel(
            "Asleep",
            "short",
            "1 while a step has no workers because it has no tasks; of several API processes, how many.",
            (total("aqueduct_step_asleep", STEP, "flow, step", BY_STEP),),
        ),
    ),
    "Models": (
        Panel(
            "Unhealthy workers",
            "short",
            "Ready workers whose model is unhealthy, as check of the handler says. They go on with their tasks.",
            (total("aqueduct_workers_unhealthy", STEP, "flow, step", BY_STEP),),
        ),
        Panel(
            "Batch ceiling",
            "short",
            "Tasks that calls get at most because larger batches have run out of memory. 0: no batch has, or full ones "
            "fit again.",
            (highest("aqueduct_batch_ceiling", STEP, "flow, step", BY_STEP),),
        ),
    ),
    "Deaths and replacements": (
        Panel(
            "Restarts",
            "ops",
            "Workers that died and were replaced, each second, by cause.",
            (rate("aqueduct_worker_restarts_total", STEP, "flow, step, cause", BY_STEP + " {{cause}}"),),
        ),
        Panel(
            "Recycling",
            "ops",
            "Workers that were replaced because of their age, tasks or memory, each second.",
            (rate("aqueduct_worker_recycles_total", STEP, "flow, step, kind", BY_STEP + " {{kind}}"),),
        ),
        Panel(
            "Retries",
            "ops",
            "Tasks that were tried again after the death of a worker, each second.",
            (rate("aqueduct_task_retries_total", STEP, "flow, step", BY_STEP),),
        ),
        Panel(
            "Dropped log records",
            "ops",
            "Log records of workers that were dropped because too many waited, each second.",
            (rate("aqueduct_log_records_dropped_total", STEP, "flow, step", BY_STEP),),
        ),
    ),
    "Memory": (
        Panel(
            "Shared memory",
            "bytes",
            "By kind. Beside used memory, free memory is kept warm for reuse.",
            (total("aqueduct_arena_bytes", FLOW + ', kind!~"limit|touched"', "flow, kind", "{{flow}} {{kind}}"),),
        ),
        Panel(
            "Shared memory in relation to its limit",
            "percentunit",
            "Uploads and tasks wait for memory near 100 %.",
            (
                Query(
                    f'sum by (flow) (aqueduct_arena_bytes{{{FLOW}, kind="used"}}) / '
                    f'sum by (flow) (aqueduct_arena_bytes{{{FLOW}, kind="limit"}})',
                    BY_FLOW,
                ),
            ),
        ),
        Panel(
            "Private memory of workers",
            "bytes",
            "Of each step, without shared memory. If it keeps growing, limit it with max_memory_growth of the step.",
            (total("aqueduct_worker_private_memory_bytes", STEP, "flow, step", BY_STEP),),
        ),
        Panel(
            "Arriving uploads",
            "short",
            "Bodies of requests that are being received.",
            (total("aqueduct_uploads_arriving", FLOW, "flow", BY_FLOW),),
        ),
    ),
    "Streams": (
        Panel(
            "Time to the first item",
            "s",
            "From the call to the first item of a stream.",
            of_flows("aqueduct_first_item_seconds"),
        ),
        Panel(
            "Time between items",
            "s",
            "Between two items of a stream; of items that arrive together 0.",
            of_flows("aqueduct_item_interval_seconds"),
        ),
    ),
    "Jobs": (
        Panel(
            "Jobs that have not ended",
            "short",
            "In the queue, or running. Beyond max_pending further ones are refused.",
            (total("aqueduct_jobs", FLOW, "flow, state", "{{flow}} {{state}}"),),
        ),
        Panel(
            "Oldest job",
            "s",
            "Age of the oldest job that has not ended: as long do clients wait.",
            (highest("aqueduct_oldest_job_seconds", FLOW, "flow", BY_FLOW),),
        ),
        Panel(
            "Jobs by outcome",
            "ops",
            "Jobs that have ended, each second.",
            (rate("aqueduct_jobs_ended_total", FLOW, "flow, outcome", "{{flow}} {{outcome}}"),),
        ),
    ),
}

PANELS = tuple(itertools.chain.from_iterable(ROWS.values()))


def build() -> str:
    """Return the dashboard as Grafana imports it."""
    builder = (
        dashboard.Dashboard("fastapi_aqueduct")
        .uid("fastapi-aqueduct")
        .description("Flows of fastapi_aqueduct: tasks, times, queues, workers, memory.")
        .tags(["fastapi", "aqueduct"])
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .refresh("10s")
        .time("now-30m", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(variable("flow", "Flow", "label_values(aqueduct_tasks_in_flight, flow)"))
        .with_variable(variable("step", "Step", f"label_values(aqueduct_queue_length{{{FLOW}}}, step)"))
    )
    for title, row in ROWS.items():
        builder.with_row(dashboard.Row(title))
        for panel in row:
            builder.with_panel(graph(panel, WIDTH // len(row)))
    return json.dumps(builder.build(), cls=JSONEncoder, indent=2) + "\n"


def variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    """Return a variable of which the user chooses values: those of a label."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
    )


def graph(panel: Panel, width: int) -> timeseries.Panel:
    """Return a panel as the builder takes it."""
    result = (
        timeseries.Panel()
        .title(panel.title)
        .description(panel.description)
        .unit(panel.unit)
        .datasource(SOURCE)
        .min(0)
        .fill_opacity(8)
        .span(width)
        .height(8)
    )
    for index, query in enumerate(panel.queries):
        target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend)
        result.with_target(target.ref_id(chr(ord("A") + index)).datasource(SOURCE))
    return result
