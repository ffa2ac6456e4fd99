"""Which steps the samples visit, and what they have when they come there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi_aqueduct import BaseTask
from fastapi_aqueduct.cli.tune.walk import Walk
from fastapi_aqueduct.cli.tune.way import longest, names_on, part_of

SHAPE = ("first", (("left",), ("right", "further"), ("rare",)), "last")


class Sample(BaseTask):
    """A task whose fields the steps set."""

    def __init__(self, is_rare: bool) -> None:
        self.is_rare = is_rare
        self.old = "old"
        self.seen: dict[str, list[str]] = {}


def fields_of(task: BaseTask) -> list[str]:
    return sorted(task.__dict__.keys() - {"task_id", "is_rare", "old", "seen"})


class Steps:
    """Stands for the steps.

    Args:
        slow: A step that has time for one sample only.
    """

    def __init__(self, slow: str = "") -> None:
        self.slow = slow
        self.seen: dict[str, list[list[str]]] = {}

    def visits(self, name: str, task: Any) -> bool:
        return name != "rare" or task.is_rare

    async def visit(self, name: str, tasks: Mapping[int, BaseTask]) -> set[int]:
        self.seen[name] = [fields_of(task) for task in tasks.values()]
        for task in tasks.values():
            setattr(task, f"by_{name}", name)
            if name == "further":
                del task.__dict__["old"]
        return set(list(tasks)[:1]) if name == self.slow else set(tasks)


async def test_branches_get_what_the_task_had_and_give_what_they_have_set() -> None:
    steps, samples = Steps(), [Sample(True), Sample(False)]
    walk = Walk(samples)
    await walk.go(SHAPE, steps.visits, steps.visit)
    first = ["by_first"]
    assert steps.seen["left"] == steps.seen["right"] == [first, first]
    assert steps.seen["further"] == [["by_first", "by_right"]] * 2
    assert steps.seen["rare"] == [first]
    both = ["by_first", "by_further", "by_left", "by_right"]
    assert steps.seen["last"] == [sorted([*both, "by_rare"]), both]
    assert walk.ways == [
        ["first", [["left"], ["right", "further"], ["rare"]], "last"],
        ["first", [["left"], ["right", "further"]], "last"],
    ]
    assert walk.share("rare") == 0.5
    assert walk.share("last") == 1
    assert [fields_of(sample) for sample in samples] == [[], []], "the samples of the user stay as they are"


async def test_samples_without_time_are_left_out_from_then_on() -> None:
    steps = Steps(slow="right")
    walk = Walk([Sample(False), Sample(True), Sample(False)])
    await walk.go(SHAPE, steps.visits, steps.visit)
    assert len(steps.seen["left"]) == 3
    assert len(steps.seen["further"]) == len(steps.seen["last"]) == 1
    assert len(walk.ways) == 1


async def test_a_step_without_visitors_is_left_out() -> None:
    steps = Steps()
    walk = Walk([Sample(False)])
    await walk.go((*SHAPE, "rare"), steps.visits, steps.visit)
    assert "rare" not in steps.seen
    assert walk.share("rare") == 0


def test_a_way_has_parts_and_a_length() -> None:
    way = ["first", [["left"], ["right", "further"]], "last"]
    assert names_on(way) == ["first", "left", "right", "further", "last"]
    assert part_of(way, {"first", "further"}) == ["first", [["further"]]]
    assert part_of(way, {"last"}) == ["last"]
    assert longest(way, dict.fromkeys(names_on(way), 1.0)) == 4.0
