"""The shape of a flow: which of its steps run one after the other, and which side by side.

A sequence is a tuple of steps and groups, one after the other. A group is a tuple of branches, side by side. A branch
is a sequence. So the shape of ``Flow(Decode(), [Faces(), (Plates(), Read())], Merge())`` is
``("decode", (("faces",), ("plates", "read")), "merge")``. Steps have indices in the order in which they are written.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Shape = tuple[Any, ...]
"""A sequence: names of steps, and groups as tuples of sequences."""

MAX_STEPS = 62
"""The most steps of a flow with a group: a set of steps travels as a number of 64 bits."""


@dataclass(frozen=True, eq=False)
class Branch:
    """A sequence of steps and groups beside others.

    Attributes:
        sequence: Indices of steps, and groups.
        steps: All steps in it, as bits.
        name: Its steps in words.
    """

    sequence: tuple[int | Group, ...]
    steps: int
    name: str


@dataclass(frozen=True, eq=False)
class Group:
    """Branches side by side.

    Attributes:
        branches: The branches.
        steps: All steps in them, as bits.
    """

    branches: tuple[Branch, ...]
    steps: int


def compile_shape(shape: Shape) -> Branch:
    """Return a shape with indices in the place of names, as one branch."""
    return _compile(shape, itertools.count())


def _compile(shape: Shape, numbers: Iterator[int]) -> Branch:
    sequence: list[int | Group] = []
    steps = 0
    for element in shape:
        if isinstance(element, str):
            index = next(numbers)
            sequence.append(index)
            steps |= 1 << index
        else:
            branches = tuple([_compile(branch, numbers) for branch in element])
            group = Group(branches, sum([branch.steps for branch in branches]))
            sequence.append(group)
            steps |= group.steps
    return Branch(tuple(sequence), steps, describe(shape))


def describe(shape: Shape) -> str:
    """Return a shape in words: ``decode > [faces | plates > read] > merge``."""
    return " > ".join(
        element if isinstance(element, str) else f"[{' | '.join(map(describe, element))}]" for element in shape
    )


def names_of(shape: Shape) -> Iterator[str]:
    """Yield the names of the steps in their order."""
    for element in shape:
        if isinstance(element, str):
            yield element
        else:
            for branch in element:
                yield from names_of(branch)


def indices(steps: int) -> list[int]:
    """Return the steps of a set that is given as bits."""
    return [index for index in range(steps.bit_length()) if steps >> index & 1]


def is_flat(shape: Sequence[object]) -> bool:
    """Tell whether all steps run one after the other."""
    return all(isinstance(element, str) for element in shape)


def rest_of(shape: Shape, name: str) -> Shape:
    """Return a shape from a step on; empty if it has no such step.

    Of a step in a branch that is the rest of its branch, beside it the other branches of its group as a whole, and what
    is behind the group. The branch with the step comes first in its group.

    Args:
        shape: The shape.
        name: Name of the step.
    """
    for index, element in enumerate(shape):
        if element == name:
            return shape[index:]
        if not isinstance(element, str):
            for branch in element:
                if rest := rest_of(branch, name):
                    others = [other for other in element if other is not branch]
                    return (rest, *others), *shape[index + 1 :]
    return ()


def restrict(shape: Shape, names: Collection[str]) -> Shape:
    """Return a shape without the steps that are not named; of a group with one branch left, its steps.

    Args:
        shape: The shape.
        names: The names of the steps that stay.
    """
    left: list[Any] = []
    for element in shape:
        if isinstance(element, str):
            left += [element] if element in names else []
        else:
            branches = [branch for branch in [restrict(branch, names) for branch in element] if branch]
            left += [tuple(branches)] if len(branches) > 1 else branches[0] if branches else ()
    return tuple(left)
