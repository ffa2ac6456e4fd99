"""Marks of a task's parameters mean what FastAPI's own ones mean, and need no FastAPI."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import pytest
from fastapi import Body, Cookie, FastAPI, Form, Header, Path, Query
from pydantic import Field
from starlette.applications import Starlette
from starlette.routing import Route

from fastapi_aqueduct import Aqueduct, BaseTask, ConfigurationError, Flow, FormField, InvalidArgument, flow_endpoint
from fastapi_aqueduct import params as marks
from fastapi_aqueduct.testing import client

from .marks import COOKIE, EXAMPLES, Embedded, Filled, Marked, Seeing, Sent, change_schema


def theirs() -> FastAPI:
    """Make an application with FastAPI's own marks."""
    app = FastAPI()

    @app.get("/pages/{page}")
    async def pages(
        *,
        page: Annotated[int, Path(ge=1, title="Page", description="Counted from one")],
        x_token: Annotated[str, Header(description="A token", examples=["abc"])],
        raw_name: Annotated[str, Header(convert_underscores=False, include_in_schema=False)] = "none",
        tags: Annotated[list[str], Header(alias="x-tag", deprecated=True), Field(default_factory=list)],
        session: Annotated[str | None, Cookie(**COOKIE)] = None,
        limit: Annotated[int, Query(gt=0, lt=100, multiple_of=2, openapi_examples=EXAMPLES)] = 10,
        price: Annotated[Decimal, Query(max_digits=4, decimal_places=2, le=50)] = Decimal("1.5"),
        ratio: Annotated[float, Query(allow_inf_nan=False, json_schema_extra=change_schema)] = 0.5,
        exact: Annotated[bool, Query(strict=True, alias="is-exact", json_schema_extra={"x-kind": "flag"})] = True,
    ) -> list[Any]:
        return [str(locals() | {}), []]

    @app.post("/forms")
    async def forms(
        *,
        title: Annotated[str, Form(min_length=2, description="A title")],
        numbers: Annotated[list[int], Form(alias="number", max_length=2), Field(default_factory=list)],
    ) -> list[Any]:
        return [str(locals() | {}), []]

    @app.post("/sent")
    async def sent(*, words: Annotated[list[str], Body(max_length=2, description="Words")]) -> list[Any]:
        return [str(locals() | {}), []]

    @app.post("/embedded")
    async def embedded(
        *, words: Annotated[list[str], Body(embed=True, alias="all", media_type="application/vnd.words+json")]
    ) -> list[Any]:
        return [str(locals() | {}), []]

    return app


def ours(flow: Flow) -> FastAPI:
    """Make the same application with this package's marks."""
    app = FastAPI(lifespan=Aqueduct(flow, add_probes=False).lifespan)

    @app.get("/pages/{page}")
    @flow_endpoint(flow)
    async def pages(task: Marked) -> list[Any]:
        return task.seen

    @app.post("/forms")
    @flow_endpoint(flow)
    async def forms(task: Filled) -> list[Any]:
        return task.seen

    @app.post("/sent")
    @flow_endpoint(flow)
    async def sent(task: Sent) -> list[Any]:
        return task.seen

    @app.post("/embedded")
    @flow_endpoint(flow)
    async def embedded(task: Embedded) -> list[Any]:
        return task.seen

    return app


PAGES: list[tuple[str, dict[str, str], dict[str, Any]]] = [
    ("1", {"x-token": "abc"}, {}),
    ("7", {"x-token": "abc", "raw_name": "r", "x-tag": "t", "cookie": "session-id=abc"}, {"limit": 2, "price": "2.25"}),
    ("0", {}, {"limit": 101, "price": "99.999", "ratio": "inf"}),
    ("one", {"x-token": "", "cookie": "session-id=A"}, {"limit": 3, "is-exact": "1"}),
    ("1", {"x-token": "abc", "raw-name": "r"}, {"exact": "true", "session": "x"}),
]
FORMS: list[dict[str, Any]] = [
    {"title": "ab"},
    {"title": "ab", "number": ["1", "2"]},
    {"title": "a"},
    {"number": "1,2"},
]
POSTS = ("/forms", "/sent", "/embedded")
BODIES: list[Any] = [["a", "b"], ["a", "b", "c"], {"all": ["a"]}, {"words": ["a"]}, None]


async def test_they_validate_and_describe_what_fastapi_does_and_workers_need_no_fastapi() -> None:
    answers: list[list[Any]] = []
    for app in (theirs(), ours(Flow(Seeing()))):
        async with client(app) as http:
            pages = [await http.get(f"/pages/{page}", headers=head, params=query) for page, head, query in PAGES]
            forms = [await http.post("/forms", data=form) for form in FORMS]
            bodies = [await http.post(path, json=body) for path in ("/sent", "/embedded") for body in BODIES]
            schema = (await http.get("/openapi.json")).json()
        described = []
        for path, method in (("/pages/{page}", "get"), *((path, "post") for path in POSTS)):
            operation = schema["paths"][path][method]
            described.append([operation.get("parameters"), operation.get("requestBody")])
        schemas = schema["components"]["schemas"]
        answers.append([(done.status_code, done.json()) for done in (*pages, *forms, *bodies)])
        answers[-1] += [described, {name: schemas[name] for name in schemas if name.startswith("Body")}]
    assert answers[0] == answers[1]
    codes = [answer[0] for answer in answers[0][:19]]
    assert codes[:9] == [200, 200, 422, 422, 200, 200, 200, 422, 422]
    assert codes[9:] == [200, 422, 422, 422, 422, 422, 422, 200, 422, 422]


async def test_they_work_on_a_plain_route_and_beside_the_task() -> None:
    flow = Flow(Seeing())
    app = FastAPI(lifespan=Aqueduct(flow, add_probes=False).lifespan)

    @flow_endpoint(flow)
    async def endpoint(task: Marked, x_user: Annotated[str, marks.Header(max_length=3)] = "none") -> list[Any]:
        return [*task.seen, x_user]

    app.get("/pages/{page}")(endpoint)
    app.mount("/plain", Starlette(routes=[Route("/pages/{page}", endpoint)]))
    async with client(app) as http:
        for page, head, query in PAGES[:2]:
            answers = [
                (await http.get(f"{root}/pages/{page}", headers={**head, "x-user": "eve"}, params=query)).json()
                for root in ("", "/plain")
            ]
            assert answers[0] == answers[1] and answers[0][-1] == "eve"
        for page, head, query in PAGES[2:]:
            done = [
                await http.get(f"{root}/pages/{page}", headers={**head, "x-user": "long"}, params=query)
                for root in ("", "/plain")
            ]
            assert [response.status_code for response in done] == [422, 422]
            places = [{(*error["loc"], error["type"]) for error in response.json()["detail"]} for response in done]
            assert places[1] <= places[0]


async def test_a_body_on_a_plain_route_is_all_of_it() -> None:
    flow = Flow(Seeing())

    @flow_endpoint(flow)
    async def sent(task: Sent) -> list[Any]:
        return task.seen

    @flow_endpoint(flow)
    async def twice(task: Sent, more: Annotated[list[str], Body()]) -> None: ...

    @flow_endpoint(flow)
    async def embedded(task: Embedded) -> None: ...

    endpoints = (sent, twice, embedded)
    routes = [Route(f"/{endpoint.__name__}", endpoint, methods=["POST"]) for endpoint in endpoints]
    async with client(Starlette(routes=routes, lifespan=Aqueduct(flow, add_probes=False).lifespan)) as http:
        assert (await http.post("/sent", json=["a", "b"])).json()[0] == "{'words': ['a', 'b']}"
        for body in BODIES[1:]:
            assert (await http.post("/sent", json=body)).status_code == 422
        for name, fields in (("twice", "words and more"), ("embedded", "words")):
            with pytest.raises(ConfigurationError, match=f"{fields}: fields of a JSON body"):
                await http.post(f"/{name}", json=[])


def test_a_form_field_has_two_names() -> None:
    assert FormField is marks.Form
    assert repr(marks.Header(alias="x", ge=1)) == "Header(alias='x', ge=1)"


def test_a_mark_as_a_default_is_refused() -> None:
    class Old(BaseTask):
        def __init__(self, token: str = marks.Header()) -> None:  # type: ignore[assignment]
            pass

    async def endpoint(task: Old) -> None: ...

    with pytest.raises(ConfigurationError, match=r"Old: token has Header\(\) as its default.*Annotated"):
        flow_endpoint(Flow(Seeing()))(endpoint)


def test_an_option_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="Cookie has no option default; it has alias, "):
        marks.Cookie(default=1)  # type: ignore[call-arg]


def test_a_mark_in_a_function_of_fastapi_alone_is_refused() -> None:
    """It would be read from the query."""
    app = FastAPI()

    async def endpoint(x_token: Annotated[str, marks.Header()]) -> None: ...

    with pytest.raises(ConfigurationError, match="params.Header is for the constructor.*from fastapi import Header"):
        app.get("/")(endpoint)
