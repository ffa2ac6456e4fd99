"""Heavy work behind FastAPI: a pipeline of worker processes that share memory."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .asgi.dependencies import FlowDep, FlowTask
    from .asgi.endpoints.decorator import flow_endpoint
    from .asgi.endpoints.stream_response import stream_response
    from .asgi.errors import (
        BodyError,
        BodyLengthMismatch,
        BodyTooLarge,
        BodyTooSlow,
        MalformedBody,
        UnsupportedBody,
    )
    from .asgi.extension import Aqueduct
    from .asgi.jobs.jobs import Jobs
    from .asgi.responses import SharedResponse
    from .asgi.settings import UploadLimits
    from .asgi.upload_to import UploadTo
    from .asgi.websockets import cancel_on_disconnect
    from .autoscale import Autoscale
    from .context import task_context
    from .cost import Cost
    from .engine.workers.interpreter import freeze_support
    from .exceptions import (
        AqueductError,
        ArenaFull,
        BlockingCallError,
        ConfigurationError,
        DeadlineUnreachable,
        FieldConflict,
        FlowError,
        ForkedError,
        HandlerError,
        HandlerTimeout,
        IdempotencyConflict,
        InvalidArgument,
        JobCancelled,
        JobError,
        JobFailed,
        JobNotFinished,
        JobNotFound,
        LengthMismatch,
        MissingHandle,
        NotRunningError,
        NotShareable,
        Overloaded,
        QueueFull,
        RecordingError,
        SlowConsumer,
        StartError,
        StartTimeout,
        StepChanging,
        StepUnavailable,
        StoreError,
        StoreFull,
        StoreInUse,
        TaskNotPicklable,
        TaskTimeout,
        TaskTooLarge,
        TenantOverShare,
        TooManyJobs,
        UnknownModel,
        UnknownStep,
        UsageError,
        WorkerDied,
    )
    from .fair_share import FairShare
    from .flow import Flow, FlowState, FlowStream
    from .function import in_worker
    from .handler import BaseTaskHandler
    from .jobs.job import Job
    from .jobs.status import JobItem, JobState, JobStatus
    from .logger import log
    from .model_pool import ModelPool
    from .params import FormField, PartLimits, RawUpload, Sha256, TaskField, Upload, UploadInfo
    from .placement.ray_actor import RayActor
    from .recording.recorder import Recorder
    from .reports import Progress, TaskPair
    from .settings import Setting
    from .step import FlowStep
    from .steps import Step
    from .task import BaseTask
    from .trials import Canary, Shadow
    from .worker import WorkerInfo, worker_info
    from .worker_function import StreamingFunction, WorkerFunction
    from .worker_options import WorkerOptions

__all__ = [
    "Aqueduct",
    "AqueductError",
    "ArenaFull",
    "Autoscale",
    "BaseTask",
    "BaseTaskHandler",
    "BlockingCallError",
    "BodyError",
    "BodyLengthMismatch",
    "BodyTooLarge",
    "BodyTooSlow",
    "Canary",
    "ConfigurationError",
    "Cost",
    "DeadlineUnreachable",
    "FairShare",
    "FieldConflict",
    "Flow",
    "FlowDep",
    "FlowError",
    "FlowState",
    "FlowStep",
    "FlowStream",
    "FlowTask",
    "ForkedError",
    "FormField",
    "HandlerError",
    "HandlerTimeout",
    "IdempotencyConflict",
    "InvalidArgument",
    "Job",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobItem",
    "JobNotFinished",
    "JobNotFound",
    "JobState",
    "JobStatus",
    "Jobs",
    "LengthMismatch",
    "MalformedBody",
    "MissingHandle",
    "ModelPool",
    "NotRunningError",
    "NotShareable",
    "Overloaded",
    "PartLimits",
    "Progress",
    "QueueFull",
    "RawUpload",
    "RayActor",
    "Recorder",
    "RecordingError",
    "Setting",
    "Sha256",
    "Shadow",
    "SharedResponse",
    "SlowConsumer",
    "StartError",
    "StartTimeout",
    "Step",
    "StepChanging",
    "StepUnavailable",
    "StoreError",
    "StoreFull",
    "StoreInUse",
    "StreamingFunction",
    "TaskField",
    "TaskNotPicklable",
    "TaskPair",
    "TaskTimeout",
    "TaskTooLarge",
    "TenantOverShare",
    "TooManyJobs",
    "UnknownModel",
    "UnknownStep",
    "UnsupportedBody",
    "Upload",
    "UploadInfo",
    "UploadLimits",
    "UploadTo",
    "UsageError",
    "WorkerDied",
    "WorkerFunction",
    "WorkerInfo",
    "WorkerOptions",
    "cancel_on_disconnect",
    "flow_endpoint",
    "freeze_support",
    "in_worker",
    "log",
    "stream_response",
    "task_context",
    "worker_info",
]

# Loaded on first access (PEP 562): workers import this package, and must not load a web framework.
_MODULES = {
    "FlowDep": "asgi.dependencies",
    "FlowTask": "asgi.dependencies",
    "flow_endpoint": "asgi.endpoints.decorator",
    "stream_response": "asgi.endpoints.stream_response",
    "BodyError": "asgi.errors",
    "BodyLengthMismatch": "asgi.errors",
    "BodyTooLarge": "asgi.errors",
    "BodyTooSlow": "asgi.errors",
    "MalformedBody": "asgi.errors",
    "UnsupportedBody": "asgi.errors",
    "Aqueduct": "asgi.extension",
    "UploadLimits": "asgi.settings",
    "UploadTo": "asgi.upload_to",
    "Jobs": "asgi.jobs.jobs",
    "SharedResponse": "asgi.responses",
    "cancel_on_disconnect": "asgi.websockets",
    "Autoscale": "autoscale",
    "task_context": "context",
    "Cost": "cost",
    "freeze_support": "engine.workers.interpreter",
    "FairShare": "fair_share",
    "Flow": "flow",
    "FlowState": "flow",
    "FlowStream": "flow",
    "StreamingFunction": "worker_function",
    "WorkerFunction": "worker_function",
    "in_worker": "function",
    "BaseTaskHandler": "handler",
    "Job": "jobs.job",
    "JobItem": "jobs.status",
    "JobState": "jobs.status",
    "JobStatus": "jobs.status",
    "log": "logger",
    "Setting": "settings",
    "FlowStep": "step",
    "Step": "steps",
    "Canary": "trials",
    "Shadow": "trials",
    "TaskPair": "reports",
    "BaseTask": "task",
    "RayActor": "placement.ray_actor",
    "Recorder": "recording.recorder",
    "WorkerInfo": "worker",
    "WorkerOptions": "worker_options",
    "worker_info": "worker",
    "FormField": "params",
    "ModelPool": "model_pool",
    "PartLimits": "params",
    "Progress": "reports",
    "RawUpload": "params",
    "Sha256": "params",
    "TaskField": "params",
    "Upload": "params",
    "UploadInfo": "params",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{_MODULES.get(name, 'exceptions')}", __name__)
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
