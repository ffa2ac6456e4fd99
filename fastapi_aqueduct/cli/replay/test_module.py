"""Writes a test that fails as a recorded task does."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import BinaryIO

from ...engine.shape import names_of
from ...exceptions import ConfigurationError
from ...flow import Flow
from ...recording.flow_name import find_flow_name
from ..target import find_object
from .replay import Replay

_TEST = '''\
"""Reproduces a task of flow {flow} that failed in step {step}, on {time}:

{error}
"""

import asyncio
from pathlib import Path

{imports}

from fastapi_aqueduct.testing import {function}, read_task

TASK = Path(__file__).with_name({file})


def test_{name}() -> None:
    async def process() -> None:
        # It lies beside this module, which may run anything as well.
        task = read_task(TASK, is_trusted=True)
        async with {function}({flow_expression}, steps={steps}) as running:
            await running.process(task, timeout_sec=60)

    asyncio.run(process())
'''


def write_test(replay: Replay, path: Path, step_only: bool) -> Path:
    """Write a test, and copy the recorded task beside it.

    A task with which a worker has died runs in worker processes, since it would end the tests; any other one runs in
    the process of the test.

    Args:
        replay: The task.
        path: The file of the test, or a directory for it.
        step_only: Whether the test ends after the step that has failed.

    Returns:
        The file of the test.

    Raises:
        ConfigurationError: The file exists, or its directory does not.
    """
    metadata = replay.file.metadata
    kind = metadata["exception"]["type"].rpartition(".")[2]
    name = re.sub(r"\W+", "_", f"{metadata['step']}_{kind}").lower()
    if path.is_dir():
        path /= f"test_{name}.py"
    task = path.with_suffix(".task")
    for each in (path, task):
        if each.exists():
            raise ConfigurationError(f"{each} exists already: give the test another name, --as-test PATH")
    if not path.parent.is_dir():
        raise ConfigurationError(f"there is no directory {path.parent} for the test")
    module, _, attribute = _importable(replay).partition(":")
    text = _TEST.format(
        flow=_escaped(replay.flow.name),
        step=_escaped(metadata["step"]),
        time=metadata["time"],
        error=_quoted(f"{metadata['exception']['type']}: {metadata['exception']['message']}"),
        imports=f"from {module} import {attribute.partition('.')[0]}",
        function="in_processes" if metadata["worker"]["died"] else "inline",
        file=json.dumps(task.name, ensure_ascii=False),
        name=name,
        flow_expression=_expression(attribute, find_object(f"{module}:{attribute}", ""), replay.flow),
        steps=json.dumps(list(names_of(replay.shape(step_only))), ensure_ascii=False),
    )
    with _new(task, 0o600) as file:
        replay.file.copy_to(file)
    with _new(path, 0o644) as file:
        file.write(text.encode())
    return path


def _importable(replay: Replay) -> str:
    """Return where a test imports the flow from: where it is made, if that is known."""
    return find_flow_name(lambda: replay.flow) or replay.target


def _expression(attribute: str, found: object, flow: Flow) -> str:
    """Return the code of a flow, from the object that a module has."""
    if found is flow:
        return attribute
    if getattr(found, "flow", None) is flow:
        return f"{attribute}.flow"
    flows = getattr(found, "flows", ())
    if flow in flows:
        return f"{attribute}.flows[{list(flows).index(flow)}]"
    raise ConfigurationError(
        f"flow {flow.name} is no attribute of a module, so a test cannot import it: give it a name at the top level"
    )


def _quoted(text: str) -> str:
    """Return a text as lines of a docstring."""
    shortened = text if len(text) <= 1000 else f"{text[:1000]}..."
    return "    " + _escaped(shortened).replace("\n", "\n    ")


def _escaped(text: str) -> str:
    """Return a text as it stands in a docstring."""
    plain = "".join(char if char.isprintable() or char == "\n" else "?" for char in text)
    return plain.replace("\\", "\\\\").replace('"', '\\"')


def _new(path: Path, mode: int) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return open(os.open(path, flags, mode), "wb")
