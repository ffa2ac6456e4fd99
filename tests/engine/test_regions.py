"""How many regions a flow gets."""

from __future__ import annotations

import resource

import pytest

from fastapi_aqueduct.engine.memory.layout import SERVER_SPACE, Layout
from fastapi_aqueduct.engine.memory.regions import (
    GUESTS,
    divide_regions,
    fewest_regions,
    make_layout,
    most_guests,
    regions_needed,
)

GIB = 1 << 30


def test_a_step_may_grow_to_the_number_of_cores_and_has_a_replacement_and_a_canary() -> None:
    assert regions_needed([2, 1], cores=8) == 1 + (8 + 2) + (8 + 2)


def test_a_step_with_more_workers_than_cores_has_a_region_for_each() -> None:
    assert regions_needed([12], cores=8) == 1 + (12 + 2)


def test_all_regions_that_may_be_needed_are_there_where_addresses_are_plentiful() -> None:
    layout = make_layout([1], 4, GIB, guests=8)
    assert (layout.regions, layout.guest_regions) == (regions_needed([1], 4) + 8, range(7, 15))
    assert make_layout([1], 4, GIB).regions == regions_needed([1], 4)


def test_where_addresses_are_scarce_only_those_are_there_that_are_needed_at_once() -> None:
    # 64 steps of 64 workers: far more than the address space of any processor
    assert make_layout([64] * 64, 64, 64 * GIB).regions == fewest_regions([64] * 64) == 1 + 64 * 65


@pytest.mark.parametrize("limit", [resource.RLIMIT_AS, resource.RLIMIT_FSIZE])
def test_under_a_limit_of_the_process_it_is_the_same(limit: int) -> None:
    soft, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (1 << 50, hard))
    try:
        assert make_layout([1], 4, GIB).regions == fewest_regions([1])
        layout = make_layout([1], 4, GIB, guests=8)
        assert layout.regions == fewest_regions([1]) + 8
        assert divide_regions(layout, [1], 4) == [range(1, 3)]
        assert layout.guest_regions == range(3, 11)
        assert layout.capacity(3) == GIB
    finally:
        resource.setrlimit(limit, (soft, hard))


def test_each_core_can_have_two_api_processes() -> None:
    assert [most_guests(cores) for cores in (1, 2, 16)] == [GUESTS, GUESTS, 34]


def test_regions_follow_each_other_and_those_of_guests_are_as_large_as_the_first() -> None:
    layout = Layout(5, 1 << 20, guests=2)
    ends = [layout.start(region) + layout.capacity(region) for region in range(5)]
    assert [layout.start(region) for region in range(1, 6)] == ends
    assert layout.size == ends[-1]
    large = SERVER_SPACE << 20
    assert [layout.capacity(region) for region in range(5)] == [large, 1 << 20, 1 << 20, large, large]
    for region in range(5):
        assert layout.region_of(layout.start(region)) == layout.region_of(ends[region] - 1) == region
    assert layout.has_block(layout.start(4), large)
    assert not layout.has_block(layout.start(3), large + 1)
    assert not layout.has_block(layout.size)
