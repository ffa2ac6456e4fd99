import logging

import pytest
from main import flow
from test_main import test_a_small_queue

from fastapi_aqueduct import ConfigurationError
from fastapi_aqueduct.testing import inline


class Messages(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def check_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUEDUCT_OCR__CLASSIFY__NPROCS", "4")
    monkeypatch.setenv("AQUEDUCT_OCR__MEMORY_LIMIT", "2Gi")
    handler = Messages()
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    with inline(flow):
        flow.start()
    of_flow, of_step = [message for message in handler.messages if "default:" in message]
    assert of_flow == (
        "flow ocr: memory_limit=2147483648 (AQUEDUCT_OCR__MEMORY_LIMIT), default: queue_size=1024 queue_priorities=1 "
        "start_timeout=300.0 stop_timeout=25.0"
    )
    assert of_step.startswith(
        "flow ocr, step classify: nprocs=4 (AQUEDUCT_OCR__CLASSIFY__NPROCS), batch_size=16 (code), default: "
        "batch_timeout=0.0 max_retries=1 "
    )


def check_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQUEDUCT_OCR__CLASSIFY__NPROC", "4")
    monkeypatch.setenv("AQUEDUCT_OCR__MEMORY_LIMIT", "512m")
    with pytest.raises(ConfigurationError) as caught:
        flow.start()
    first, unknown, limit = str(caught.value).splitlines()
    assert first == "wrong environment variables:"
    assert unknown.startswith(
        "    AQUEDUCT_OCR__CLASSIFY__NPROC sets nothing of step classify of flow ocr, did you mean "
        "AQUEDUCT_OCR__CLASSIFY__NPROCS? After "
    )
    assert limit == (
        "    AQUEDUCT_OCR__MEMORY_LIMIT=512m is not memory_limit of flow ocr: it must be a whole number such as 4 or "
        "512Mi, or none"
    )


if __name__ == "__main__":
    for check in (test_a_small_queue, check_the_log, check_mistakes):
        with pytest.MonkeyPatch.context() as monkeypatch:
            check(monkeypatch)
