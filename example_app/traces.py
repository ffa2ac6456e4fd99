"""Prints traces when the environment asks for them."""

import os


def configure_traces() -> None:
    """Print each span as a line of JSON if the variable ``OTEL_TRACES_EXPORTER`` is ``console``.

    FastAPI makes the span of a request, the flow those below it. For a collector this function is not needed:
    FastAPI sets up exporters of OTLP with ``FASTAPI_OTEL_AUTO_CONFIGURE=true``.
    """
    if os.environ.get("OTEL_TRACES_EXPORTER") != "console":
        return
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    provider = TracerProvider()
    # Each span at once: uvicorn ends with the signal that has stopped it, and would lose a batch that waits.
    exporter = ConsoleSpanExporter(formatter=lambda span: f"{span.to_json(indent=None)}\n")
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
