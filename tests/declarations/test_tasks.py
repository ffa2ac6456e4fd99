"""Tasks as dataclasses, generic classes and with annotations that are texts, over HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Route

from fastapi_aqueduct import Aqueduct, BaseTask, ConfigurationError, Flow, FlowDep, FlowTask, Upload, flow_endpoint
from fastapi_aqueduct.testing import client

from ..support import blocks, eventually
from .derived import Derived
from .factory import create_app, endpoint_of_unknown
from .tasks import Box, Half, Numbers, Pair, Read, Scan, See


def endpoint_of(flow: Flow, task_type: Any, field: str) -> Any:
    async def endpoint(task: Any) -> Any:
        return getattr(task, field)

    endpoint.__annotations__["task"] = task_type
    return flow_endpoint(flow)(endpoint)


async def test_a_dataclass() -> None:
    """Its inputs are parameters, upload, fields and query; what it sets itself is none."""
    flow = Flow(Read())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    app.post("/lines")(endpoint_of(flow, Scan, "lines"))
    app.post("/number")(endpoint_of(flow, Scan, "number"))
    async with client(app) as http:
        files = {"image": ("a.png", b"x" * 100_000)}
        assert (await http.post("/lines", files=files)).json() == ["100000 100000  [] 0.5"]
        response = await http.post("/lines?min_score=1", files=files, data={"title": "T", "tags": ["a", "b"]})
        assert response.json() == ["100000 100000 T ['a', 'b'] 1.0"]
        assert (await http.post("/lines?min_score=-1", files=files)).status_code == 422
        first = (await http.post("/number", content=b"x")).json()
        assert (await http.post("/number", content=b"x")).json() == first + 1
        assert (await http.post("/number?number=7", content=b"x")).json() == 7
        operation = (await http.get("/openapi.json")).json()["paths"]["/lines"]["post"]
        assert [item["name"] for item in operation["parameters"]] == ["min_score", "number"]
        form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
        assert list(form["properties"]) == ["image", "title", "tags"] and form["required"] == ["image"]
        await eventually(lambda: blocks(flow) == 0)


async def test_a_dataclass_on_a_plain_route() -> None:
    """Defaults that are made each time are made there, too."""
    flow = Flow(Read())
    app = Starlette(
        routes=[Route("/number", endpoint_of(flow, Scan, "number"), methods=["POST"])],
        lifespan=Aqueduct(flow).lifespan,
    )
    async with client(app) as http:
        first = (await http.post("/number", content=b"x")).json()
        assert (await http.post("/number", content=b"x")).json() == first + 1
        assert (await http.post("/number?number=7", content=b"x")).json() == 7


GENERIC: list[tuple[Any, str, list[str]]] = [
    (Box[int], "value=3", ["value=3", "others=[]"]),
    (Box[str], "value=3", ["value='3'", "others=[]"]),
    (Pair[int, str], "left=1&right=2", ["left=1", "right='2'"]),
    (Pair[int, str], "left=1", ["left=1", "right=None"]),
    (Half[str, float], "left=1&right=2", ["left=1.0", "right=b'2'"]),
    (Numbers, "left=1&right=2", ["left=1", "right=b'2'"]),
    (Annotated[Numbers, "said for readers"], "left=1", ["left=1", "right=None"]),
    (Derived, "first=1&second=5&secret=abc", ["first=1", "length=3"]),
]


async def test_generic_tasks() -> None:
    """The arguments of the class are the types of its parameters, also where a base has them."""
    flow = Flow(See())
    app = FastAPI(lifespan=Aqueduct(flow).lifespan)
    for number, (task_type, _, _) in enumerate(GENERIC):
        app.post(f"/{number}")(endpoint_of(flow, task_type, "seen"))

    async def by_hand(task: Any, flow: FlowDep) -> Any:
        await flow.process(task)
        return task.seen

    by_hand.__annotations__["task"] = Annotated[Box[int], FlowTask()]
    app.post("/by_hand")(by_hand)
    async with client(app) as http:
        for number, (_, query, expected) in enumerate(GENERIC):
            response = await http.post(f"/{number}?{query}")
            assert response.json() == expected, (number, response.text)
        assert (await http.post("/0?value=x")).json()["detail"][0]["loc"] == ["query", "value"]
        assert (await http.post("/0?value=3", json=[1, "2"])).json() == ["value=3", "others=[1, 2]"]
        assert (await http.post("/by_hand?value=3")).json() == ["value=3", "others=[]"]


async def test_a_generic_task_that_is_made_by_hand() -> None:
    async with Flow(See()) as flow:
        task = await flow.process(Box[int](3))
        assert task.seen == ["value=3", "others=[]"]


async def test_an_application_factory() -> None:
    """Texts that name what stands in the factory, or what only the type checker knows."""
    app = create_app()
    async with client(app) as http:
        response = await http.post("/scan?copies=2", content=b"x")
        assert response.json() == {"lines": ["1 1  [] 0.5"] * 2}
        assert (await http.post("/scan?copies=0", content=b"x")).status_code == 422
        assert (await http.post("/checked", content=b"x")).json() == {"lines": ["1 1  [] 0.5"]}
        schema = (await http.get("/openapi.json")).json()["components"]["schemas"]["Answer"]
        assert list(schema["properties"]) == ["lines"]


def test_a_task_that_only_the_type_checker_knows() -> None:
    with pytest.raises(TypeError) as caught:
        endpoint_of_unknown(Flow(See()))
    assert str(caught.value) == (
        "endpoint_of_unknown.<locals>.unknown: exactly one parameter must be annotated with a subclass of BaseTask, "
        "found none; Decimal cannot be found at run time"
    )


@dataclass(frozen=True)
class Frozen(BaseTask):
    """Nothing can be set on it."""

    value: int


FROZEN = "Frozen is frozen, but handlers set results as attributes of a task; declare it without frozen=True"


def test_a_frozen_dataclass() -> None:
    """It is refused as the task of an endpoint, and where one is made."""
    with pytest.raises(ConfigurationError, match=f"^{FROZEN}$"):
        endpoint_of(Flow(See()), Frozen, "value")
    with pytest.raises(ConfigurationError, match=f"^{FROZEN}$"):
        FlowTask(dependency=Frozen)
    with pytest.raises(ConfigurationError, match=f"^{FROZEN}$"):
        Frozen(1)


@dataclass
class Forgetful(BaseTask):
    """Says nowhere that a field is a result."""

    image: Upload
    lines: list[str]


def test_a_result_of_a_dataclass_that_looks_like_an_input() -> None:
    """The message says how to declare it."""
    with pytest.raises(ConfigurationError, match=r"so lines must come from .* field\(init=False\)$"):
        endpoint_of(Flow(See()), Forgetful, "lines")
