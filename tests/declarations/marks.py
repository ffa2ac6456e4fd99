"""A task with a mark of each kind, in a module that workers import without FastAPI."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any

from fastapi_aqueduct import BaseTask, BaseTaskHandler
from fastapi_aqueduct.params import Body, Cookie, Form, Header, Path, Query

OTHERS = ("seen", "task_id", "expiration_time")
"""What a task has beside its inputs."""

COOKIE: Any = {"alias": "session-id", "min_length": 3, "max_length": 8, "pattern": "^[a-z]+$"}
EXAMPLES = {"small": {"summary": "a small one", "value": 2}}


def change_schema(schema: dict[str, Any]) -> None:
    """Add to a JSON schema."""
    schema["x-unit"] = "pages"


@dataclass
class Marked(BaseTask):
    """Gets its fields from all places of a request."""

    page: Annotated[int, Path(ge=1, title="Page", description="Counted from one")]
    x_token: Annotated[str, Header(description="A token", examples=["abc"])]
    raw_name: Annotated[str, Header(convert_underscores=False, include_in_schema=False)] = "none"
    tags: Annotated[list[str], Header(alias="x-tag", deprecated=True)] = field(default_factory=list)
    session: Annotated[str | None, Cookie(**COOKIE)] = None
    limit: Annotated[int, Query(gt=0, lt=100, multiple_of=2, openapi_examples=EXAMPLES)] = 10
    price: Annotated[Decimal, Query(max_digits=4, decimal_places=2, le=50)] = Decimal("1.5")
    ratio: Annotated[float, Query(allow_inf_nan=False, json_schema_extra=change_schema)] = 0.5
    exact: Annotated[bool, Query(strict=True, alias="is-exact", json_schema_extra={"x-kind": "flag"})] = True
    seen: list[Any] = field(default_factory=list, init=False)


@dataclass
class Filled(BaseTask):
    """Gets its fields from a form, without an upload."""

    title: Annotated[str, Form(min_length=2, description="A title")]
    numbers: Annotated[list[int], Form(alias="number", max_length=2)] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list, init=False)


@dataclass
class Sent(BaseTask):
    """Gets its field from the JSON body."""

    words: Annotated[list[str], Body(max_length=2, description="Words")]
    seen: list[Any] = field(default_factory=list, init=False)


@dataclass
class Embedded(BaseTask):
    """Gets its field from a field of the JSON body."""

    words: Annotated[list[str], Body(embed=True, alias="all", media_type="application/vnd.words+json")]
    seen: list[Any] = field(default_factory=list, init=False)


class Seeing(BaseTaskHandler):
    """Notes the values of a task, and which packages of the web the worker has imported."""

    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            fields = {name: value for name, value in vars(task).items() if name not in OTHERS}
            task.seen = [str(fields), sorted({"fastapi", "starlette", "pydantic"} & sys.modules.keys())]
