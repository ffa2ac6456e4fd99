"""The public names: complete, documented, typed."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import inspect
import pkgutil
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Collection, Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi.params import Depends

import fastapi_aqueduct
from fastapi_aqueduct import exceptions, testing
from fastapi_aqueduct.asgi import errors
from fastapi_aqueduct.engine import statistics
from fastapi_aqueduct.metrics import prometheus

from ..handlers import Each, Job
from ..support import DEADLINE, script_environment

PACKAGE = Path(str(fastapi_aqueduct.__file__)).parent

ENGINE = "fastapi_aqueduct.engine"

USES_RAY = "fastapi_aqueduct.placement.cluster"

MODULES = [statistics] + [
    import_module(module.name)
    for module in pkgutil.walk_packages(fastapi_aqueduct.__path__, "fastapi_aqueduct.")
    if not module.name.startswith((ENGINE, USES_RAY))
]
"""All but what users do not import; of the engine, what `Flow.statistics` returns."""


def public_members(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """List what a module defines itself under a public name."""
    for name, value in vars(module).items():
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__:
            yield name, value


def described(value: Any) -> Iterator[tuple[str, Any]]:
    """List a class with the methods and properties that it defines itself, or a function alone."""
    yield value.__qualname__, value
    if inspect.isclass(value):
        for name, member in vars(value).items():
            function: Any = getattr(member, "fget", None) or getattr(member, "__func__", None) or member
            if not name.startswith("_") and inspect.isfunction(function):
                yield f"{value.__qualname__}.{name}", inspect.unwrap(function)


MEMBERS = [
    (f"{module.__name__}.{name}", member)
    for module in MODULES
    for _, value in public_members(module)
    if inspect.isclass(value) or inspect.isfunction(value)
    for name, member in described(value)
]


def test_the_public_names_are_sorted_and_unique() -> None:
    assert fastapi_aqueduct.__all__ == sorted(set(fastapi_aqueduct.__all__))


def test_the_public_names_are_there() -> None:
    for name in fastapi_aqueduct.__all__:
        value = getattr(fastapi_aqueduct, name)
        if inspect.isclass(value):
            assert value.__name__ == {"FormField": "Form"}.get(name, name)  # an alias
            assert value.__module__.startswith("fastapi_aqueduct.")


def test_the_public_names_are_all_that_is_listed() -> None:
    assert set(fastapi_aqueduct.__all__) == set(dir(fastapi_aqueduct))


def test_a_star_import_brings_the_public_names() -> None:
    names: dict[str, Any] = {}
    exec("from fastapi_aqueduct import *", names)
    assert set(fastapi_aqueduct.__all__) <= set(names)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Flwo'"):
        getattr(fastapi_aqueduct, "Flwo")  # noqa: B009


def test_the_names_for_the_type_checker_are_the_public_names() -> None:
    source = Path(str(fastapi_aqueduct.__file__)).read_text()
    block = source[source.index("if TYPE_CHECKING:") : source.index("__all__")]
    imported = re.findall(r"\b([A-Za-z]\w*)(?=,|\n)", re.sub(r"from \S+ import", "", block.split("\n", 1)[1]))
    assert sorted(imported) == fastapi_aqueduct.__all__


def test_what_is_public_has_a_docstring() -> None:
    for name, member in MEMBERS:
        # A method may inherit that of the method it overrides; a class must have its own.
        text = vars(member).get("__doc__") if inspect.isclass(member) else inspect.getdoc(member)
        assert text, name
        assert text.strip(), name
        # Named tuples and dataclasses get one from their maker.
        assert not text.startswith(f"{member.__name__}("), name


def test_annotations_can_be_resolved_when_the_program_runs() -> None:
    for name, member in MEMBERS:
        for target in [member, member.__init__] if inspect.isclass(member) else [member]:
            hints = typing.get_type_hints(target, localns={"httpx": httpx}, include_extras=True)
            assert all(not isinstance(hint, str) for hint in hints.values()), name


def test_functions_are_annotated_throughout() -> None:
    for name, member in MEMBERS:
        if not inspect.isclass(member):
            signature = inspect.signature(member)
            assert signature.return_annotation is not inspect.Signature.empty, name
            for parameter in parameters(member):
                assert parameter.annotation is not inspect.Parameter.empty, name


BUT = {"args", "kwargs", *(field.name for field in dataclasses.fields(Depends))}
"""Parameters that need no description; `FlowTask` inherits those of ``Depends``."""


def test_the_parameters_of_the_public_names_are_described() -> None:
    public = [getattr(fastapi_aqueduct, name) for name in fastapi_aqueduct.__all__]
    checked = 0
    for value in [*public, prometheus.AqueductCollector, testing.client]:
        if not is_ours(value) or inspect.isclass(value) and issubclass(value, Exception):
            continue  # an exception says under Attributes what it was made of
        for name, member in described(value):
            for parameter in parameters(constructor(member) if inspect.isclass(member) else member, BUT):
                checked += 1
                assert re.search(rf"^\s+\*{{0,2}}{parameter.name}:", member.__doc__ or "", re.M), f"{name}: {parameter}"
    assert checked > 90  # the loop has looked at something


def test_a_section_on_arguments_names_the_parameters_in_their_order() -> None:
    for name, member in MEMBERS:
        section = re.search(r"^( *)Args:\n(.*?)(?=\n\s*\n|\Z)", inspect.getdoc(member) or "", re.M | re.S)
        if section is not None:
            names = re.findall(r"^    \*{0,2}(\w+):", section[2], re.M)
            function = constructor(member) if inspect.isclass(member) else member
            assert names == [parameter.name for parameter in parameters(function, ())], name


def test_an_editor_shows_a_docstring_for_each_public_name_that_is_no_class() -> None:
    """Below its assignment, where editors look: such a name may be an alias, whose ``__doc__`` is that of its type."""
    names = [name for name in fastapi_aqueduct.__all__ if not is_ours(getattr(fastapi_aqueduct, name))]
    assert names == ["FlowDep", "RawUpload", "Upload", "log"]
    for name in names:
        path = PACKAGE.joinpath(*fastapi_aqueduct._MODULES[name].split(".")).with_suffix(".py")
        body = ast.parse(path.read_text()).body
        (place,) = [index for index, node in enumerate(body) if name in assigned(node)]
        shown = body[place + 1]
        assert isinstance(shown, ast.Expr) and isinstance(shown.value, ast.Constant), name
        assert isinstance(shown.value.value, str), name


def assigned(node: ast.stmt) -> list[str]:
    """List the names that a statement assigns to."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def is_ours(value: Any) -> bool:
    """Tell whether a value is a class or a function of the package."""
    return (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__.startswith("fastapi_aqueduct.")


def constructor(kind: Any) -> Any:
    """Return the constructor that a class defines itself; one without parameters if it defines none."""
    return vars(kind).get("__init__") or object.__repr__


def parameters(function: Any, but: Collection[str] = ("args", "kwargs")) -> list[inspect.Parameter]:
    """List the parameters of a function or a method, without ``self`` and ``cls``."""
    found = list(inspect.signature(function).parameters.values())
    if "." in function.__qualname__ and found and found[0].name in ("self", "cls"):
        del found[0]
    return [parameter for parameter in found if parameter.name not in but]


def leaves() -> dict[str, type[Exception]]:
    return {
        name: value
        for module in (exceptions, errors)
        for name, value in public_members(module)
        if inspect.isclass(value) and issubclass(value, exceptions.AqueductError)
    }


def test_every_exception_is_in_the_tree_under_its_parent() -> None:
    parents_of: dict[str, list[str]] = {}
    above: list[str] = []
    for line in (exceptions.__doc__ or "").splitlines():
        if found := re.match(r"^( {4}[ │├└─]*)(\w+)( \((.*?)\))?", line):
            del above[len(found[1]) // 4 - 1 :]
            parents_of[found[2]] = [parent for parent in [*above[-1:], *(found[4] or "").split(", ")] if parent]
            above.append(found[2])
    for name, value in leaves().items():
        bases = [base.__name__ for base in value.__bases__ if base is not Exception]
        assert parents_of.get(name) == bases, name


def test_the_exceptions_of_the_package_are_public() -> None:
    # met as a cause; refused start method; never raised
    internal = {"WorkerTraceback", "MPStartMethodValueError", "BadReferenceCount"}
    assert set(leaves()) - internal <= set(fastapi_aqueduct.__all__)


def test_what_is_raised_on_purpose_is_an_error_of_the_package() -> None:
    """But for what Python asks an object for, and for what a worker catches at the end of its channel."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                name = node.exc.func.id
                if hasattr(builtins, name) and name not in ("AttributeError", "EOFError"):
                    found.append(f"{path.name}:{node.lineno} raises {name}")
    assert not found


def test_errors_are_also_what_callers_expect() -> None:
    flow = fastapi_aqueduct.Flow(Each())
    calls: list[tuple[type[Exception], type[Exception], Callable[[], object]]] = [
        (exceptions.InvalidArgument, TypeError, lambda: fastapi_aqueduct.flow_endpoint(Each)),  # type: ignore[arg-type]
        (exceptions.InvalidArgument, TypeError, lambda: fastapi_aqueduct.flow_endpoint(flow)(lambda: None)),
        (exceptions.InvalidArgument, TypeError, lambda: Job().fail("text")),  # type: ignore[arg-type]
        (exceptions.InvalidArgument, TypeError, lambda: fastapi_aqueduct.SharedResponse(5)),
        (exceptions.NotShareable, ValueError, lambda: Job().share_value("nothing")),
        (exceptions.NotShareable, ValueError, lambda: Job(a=[]).share_value("a")),
        (exceptions.MissingHandle, NotImplementedError, lambda: fastapi_aqueduct.BaseTaskHandler().handle()),
        (exceptions.UnknownStep, KeyError, lambda: flow.steps["nothing"]),
    ]
    for ours, known, call in calls:
        for kind in (ours, known, exceptions.AqueductError):
            with pytest.raises(kind):
                call()


def test_the_package_is_typed() -> None:
    assert (Path(str(fastapi_aqueduct.__file__)).parent / "py.typed").exists()


def test_importing_the_package_is_quiet() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "from fastapi_aqueduct import *"],
        env=script_environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
