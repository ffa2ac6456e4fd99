"""However an application configures logging, each record of a worker appears once."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support import DEADLINE, script_environment

PIPELINE = """
    import logging
    import os
    import threading
    import warnings

    from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow

    import settings

    log = logging.getLogger("pages")
    texts = {"warning": "WARNED", "error": "TORN"}  # not in the lines that are shown with them

    class Read(BaseTaskHandler):
        def on_start(self) -> None:
            log.warning("LOADED")

        def handle(self, *tasks: BaseTask) -> None:
            log.info("INFORMED")
            log.debug("DEBUGGED")
            logging.getLogger("pages.alone").warning("ALONE")
            logging.getLogger("uvicorn.error").info("SERVED")
            warnings.warn(texts["warning"])
            thread = threading.Thread(target=tear)
            thread.start()
            thread.join()
            pid = os.fork()
            if not pid:
                log.warning("FORKED")
                os._exit(0)
            os.waitpid(pid, 0)

        def on_stop(self) -> None:
            log.warning("STOPPED")

    def tear() -> None:
        raise ValueError(texts["error"])

    flow = Flow(Read(), mp_start_method="{method}")
"""

MAIN = """
    import asyncio
    import os
    import signal
    import sys
    from pathlib import Path

    from fastapi_aqueduct import BaseTask
    from pipeline import flow

    def is_armed(descriptor: Path) -> bool:
        return bool(int(descriptor.read_text().split()[3], 8) & os.O_ASYNC)  # of the lifeline: see ParentDeathSignal

    async def main() -> None:
        async with flow:
            await flow.process(BaseTask())
            if "killed" in sys.argv:
                (worker,) = flow.statistics().steps[0].workers
                while any(map(is_armed, Path(f"/proc/{worker.pid}/fdinfo").iterdir())):
                    await asyncio.sleep(0.01)  # a worker that is not idle yet would be killed, too
                os.kill(os.getpid(), signal.SIGKILL)

    if __name__ == "__main__":
        import of_main
        asyncio.run(main())
"""

BASIC = 'logging.basicConfig(level="INFO", format="<%(levelname)s %(processName)s> %(message)s")'

DICT = """
    import logging.config

    logging.config.dictConfig({
        "version": 1,
        "formatters": {"short": {"format": "<%(levelname)s %(processName)s> %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "short"}},
        "root": {"level": "DEBUG", "handlers": ["stderr"]},
        "loggers": {"pages.alone": {"handlers": ["stderr"], "propagate": False}},
    })
    logging.captureWarnings(True)
"""

UVICORN = """
    import logging.config

    import uvicorn.config

    logging.config.dictConfig(uvicorn.config.LOGGING_CONFIG)
"""

WORDS = ("LOADED", "INFORMED", "DEBUGGED", "ALONE", "SERVED", "WARNED", "TORN", "FORKED", "STOPPED")

CASES = {
    # Where the pipeline's module configures logging, each worker does so as well, when it imports it.
    "none": ("", "", "spawn", {"INFORMED", "DEBUGGED", "SERVED"}),
    "basicConfig at import": (BASIC, "", "spawn", {"DEBUGGED"}),
    "basicConfig under forkserver": (BASIC, "", "forkserver", {"DEBUGGED"}),
    "dictConfig at import": (DICT, "", "spawn", set()),
    "killed": ("", "", "spawn", {"INFORMED", "DEBUGGED", "SERVED"}),
    "uvicorn": ("", UVICORN, "spawn", {"INFORMED", "DEBUGGED"}),
}
"""Configurations in the pipeline's module and in the application's, and words that their levels leave out."""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the application writes under each configuration; all run at once."""
    running: dict[str, subprocess.Popen[str]] = {}
    for name, (configuration, of_main, method, _) in CASES.items():
        directory = tmp_path_factory.mktemp("configuration")
        (directory / "settings.py").write_text("import logging\n" + textwrap.dedent(configuration))
        (directory / "of_main.py").write_text(textwrap.dedent(of_main))
        (directory / "pipeline.py").write_text(textwrap.dedent(PIPELINE.replace("{method}", method)))
        (directory / "main.py").write_text(textwrap.dedent(MAIN))
        running[name] = start(directory, name)
    yield {name: finish(process, name) for name, process in running.items()}


def start(directory: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "main.py", name],
        cwd=directory,
        env=script_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str], name: str) -> str:
    output, _ = process.communicate(timeout=2 * DEADLINE)  # until the last worker has ended, too
    assert process.returncode == (-signal.SIGKILL if name == "killed" else 0), output
    return output


@pytest.mark.parametrize("name", CASES)
def test_each_record_appears_once(name: str, outputs: dict[str, str]) -> None:
    *_, left_out = CASES[name]
    output = outputs[name]
    found = {word: len(re.findall(rf"\b{word}\b", output)) for word in WORDS}
    assert found == {word: int(word not in left_out) for word in WORDS}, output


@pytest.mark.parametrize("name", ["basicConfig at import", "basicConfig under forkserver", "dictConfig at import"])
def test_the_format_is_that_of_the_application(name: str, outputs: dict[str, str]) -> None:
    assert "<INFO flow:step1_Read> INFORMED\n" in outputs[name]
    assert "<ERROR flow:step1_Read> exception in thread" in outputs[name]
    # The fork has the handlers that the module has configured.
    assert re.search(r"<WARNING \S+> FORKED\n", outputs[name])


def test_without_a_configuration_python_decides(outputs: dict[str, str]) -> None:
    lines = outputs["none"].splitlines()
    assert "LOADED" in lines  # as a warning of the API process itself would come
    assert any(re.fullmatch(r"WARNING:pages:FORKED \(pid \d+\)", line) for line in lines)
    assert any(line.endswith("UserWarning: WARNED") for line in lines)


def test_after_the_death_of_the_api_process_records_go_to_stderr(outputs: dict[str, str]) -> None:
    assert re.search(r"^WARNING:pages:STOPPED \(pid \d+\)$", outputs["killed"], re.MULTILINE)


def test_with_the_configuration_of_uvicorn_its_loggers_are_formatted(outputs: dict[str, str]) -> None:
    assert "INFO:     SERVED\n" in outputs["uvicorn"]
