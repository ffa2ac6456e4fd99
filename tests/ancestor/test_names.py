"""Every public name of the package ``aqueduct`` 1.15 works after the change of the import, or says what replaces it."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from fastapi_aqueduct import AqueductError
from fastapi_aqueduct.metrics import Collector
from fastapi_aqueduct.metrics.manager import MetricsManager
from fastapi_aqueduct.replaced import REPLACED, REPLACED_MEMBERS, ReplacedName
from fastapi_aqueduct.reports import TaskMetrics
from fastapi_aqueduct.sockets.processes import ProcessContext

from ..support import DEADLINE, ROOT, script_environment
from .names import ARGUMENTS, MEMBERS, NAMES

PACKAGE = "fastapi_aqueduct"


def names() -> Iterator[tuple[str, str]]:
    for module, listed in NAMES.items():
        for name in listed.split():
            yield module, name


def find(path: str) -> Any:
    """Import ``sockets.flow.SocketFlow.preload``."""
    parts = path.split(".")
    length = max(length for length in range(len(parts)) if ".".join(parts[:length]) in NAMES)
    found: Any = import_module(".".join([PACKAGE, *parts[:length]]))
    for part in parts[length:]:
        found = getattr(found, part)
    return found


def test_a_name_exists_or_says_what_replaces_it() -> None:
    for module, name in names():
        line = f"from {PACKAGE}{'.' * bool(module)}{module} import {name}"
        advice = REPLACED.get(module, {}).get(name)
        if advice is None:
            exec(line, {})
            continue
        with pytest.raises(ImportError) as caught:
            exec(line, {})
        assert isinstance(caught.value, AqueductError)
        assert str(caught.value) == f"{PACKAGE} has no {name} of aqueduct.{module}: {advice}"


def test_what_is_replaced_was_a_name() -> None:
    assert {(module, name) for module, advice in REPLACED.items() for name in advice} <= set(names())


def test_another_name_is_as_unknown_as_in_any_module() -> None:
    with pytest.raises(ImportError, match="cannot import name 'Wroker'") as caught:
        exec("from fastapi_aqueduct.worker import Wroker", {})
    assert not isinstance(caught.value, ReplacedName)
    assert not hasattr(import_module("fastapi_aqueduct.queues"), "Queue")


def test_the_members_exist() -> None:
    for owner, members in MEMBERS.items():
        for member in set(members.split()) - REPLACED_MEMBERS.get(owner, {}).keys():
            assert hasattr(find(owner), member) or member in find(owner).__annotations__, f"{owner}.{member}"


@pytest.mark.parametrize("owner", [Collector, MetricsManager, ProcessContext, TaskMetrics])
def test_a_member_without_counterpart_says_what_replaces_it(owner: Any) -> None:
    (members,) = [members for path, members in REPLACED_MEMBERS.items() if path.endswith(f".{owner.__name__}")]
    page = (ROOT / "docs" / "coming-from-aqueduct.md").read_text()
    one = owner.__new__(owner)
    for name, advice in members.items():
        with pytest.raises(AttributeError, match=f"{owner.__name__}' object has no attribute '{name}'.*") as caught:
            getattr(one, name)
        assert isinstance(caught.value, AqueductError) and str(caught.value).endswith(advice)
        assert f"`{name}`" in page, name
    assert not hasattr(one, "another")


def test_the_times_of_a_task_can_be_copied_and_pickled() -> None:
    times = TaskMetrics((), 3.0)
    assert copy.deepcopy(times) == pickle.loads(pickle.dumps(times)) == times


def test_the_arguments_have_their_names_and_places() -> None:
    for path, arguments in ARGUMENTS.items():
        parameters = inspect.signature(find(path)).parameters.values()
        found = [parameter.name for parameter in parameters if parameter.name not in ("self", "steps")]
        wanted = arguments.split()
        if path == "flow.Flow":  # only by name, after the steps
            assert set(wanted) <= set(found)
        else:
            assert found[: len(wanted)] == wanted, path


def test_no_module_of_a_service_without_fastapi_imports_it() -> None:
    modules = [module for module in NAMES if module != "integrations.fastapi"]
    source = f"""
import sys
from importlib import import_module
for module in {modules!r}:
    import_module("fastapi_aqueduct" + "." * bool(module) + module)
from fastapi_aqueduct import BaseTask, BaseTaskHandler, Flow, FlowStep, log
print(sorted({{"fastapi", "starlette", "pydantic"}} & sys.modules.keys()))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
