"""The least of things whose values change, beside a simple model."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fastapi_aqueduct.engine.scheduling.ranking import STALE, Ranking


@given(st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 3))))
def test_the_first_is_that_with_the_least_value_and_of_equal_ones_that_which_was_put_first(
    course: list[tuple[int, int | None]],
) -> None:
    ranking: Ranking[int, int] = Ranking()
    model: dict[int, int] = {}
    for thing, value in course:
        model.pop(thing, None)
        if value is None:
            ranking.discard(thing)
        else:
            ranking.put(thing, value)
            model[thing] = value
        assert len(ranking) == len(model) and (thing in ranking) == (thing in model)
        if model:
            first = min(model, key=lambda thing: model[thing])
            assert (ranking.first, ranking.least) == (first, model[first])


def test_entries_that_are_out_of_date_do_not_pile_up() -> None:
    ranking: Ranking[int, int] = Ranking()
    for value in range(5000):
        ranking.put(value % 7, -value)
        ranking.put(-1, 1)
    assert len(ranking._entries) <= 2 * 8 + STALE
    for thing in range(-1, 7):
        ranking.discard(thing)
    assert not ranking and not ranking._entries
