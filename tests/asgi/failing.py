"""Handlers that raise what an application has handlers for."""

from __future__ import annotations

from typing import Any

from fastapi import HTTPException

from fastapi_aqueduct import BaseTask, BaseTaskHandler


class PageError(Exception):
    """A page cannot be read.

    Args:
        page: Its number.
        reason: Why not.
    """

    def __init__(self, page: int, *, reason: str) -> None:
        super().__init__(f"page {page}: {reason}")
        self.page = page


class Page(BaseTask):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class Refuse(BaseTaskHandler):
    def handle(self, *tasks: Any) -> None:
        for task in tasks:
            self.refuse(task.number)

    def refuse(self, number: int) -> None:
        if number == 1:
            raise HTTPException(status_code=422, detail={"page": number}, headers={"x-page": "1"})
        if number == 2:
            raise PageError(number, reason="too dark")
        raise ValueError(f"page {number} is torn")
