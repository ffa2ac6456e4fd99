"""What mypy infers of functions in workers, and what it refuses."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path

from fastapi_aqueduct import Flow, FlowStep
from fastapi_aqueduct.function_options import FlowOptions, StepOptions

from ..support import check_types

SNIPPET = Path(__file__).with_name("typed.py")


def test_mypy_infers_results_and_refuses_wrong_arguments() -> None:
    """Each wrong line ignores its error by its code, and strict mypy reports a comment that ignores nothing."""
    assert check_types(SNIPPET) == ""


def test_a_function_has_the_options_of_steps_and_flows() -> None:
    """Under the same names, with the same types; those that make no sense for one function are left out."""
    step = {*inspect.signature(FlowStep).parameters} - {
        "handler", "handle_condition", "on_start_wait", "continuous", "batch_size", "name", "check_timeout",
        "batch_key", "batch_cost", "coalesce_key",
    }  # fmt: skip
    flow = {*inspect.signature(Flow).parameters} - {"steps", "name", "fair"}
    for options, names, function in ((StepOptions, step, FlowStep.__init__), (FlowOptions, flow, Flow.__init__)):
        assert set(options.__annotations__) == names, "a new option of Flow or FlowStep is one of a function, too"
        hints = typing.get_type_hints(options)
        given = typing.get_type_hints(function)
        assert {name: given[name] for name in names} == hints
