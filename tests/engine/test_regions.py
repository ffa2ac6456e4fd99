"""How many regions a flow gets."""

from __future__ import annotations

import resource

import pytest

from fastapi_aqueduct.engine.memory.regions import GUESTS, fewest_regions, make_layout, regions_needed

GIB = 1 << 30


def test_a_step_may_grow_to_the_number_of_cores_and_has_a_replacement_and_a_canary() -> None:
    assert regions_needed([2, 1], cores=8) == 1 + (8 + 2) + (8 + 2) + GUESTS


def test_a_step_with_more_workers_than_cores_has_a_region_for_each() -> None:
    assert regions_needed([12], cores=8) == 1 + (12 + 2) + GUESTS


def test_all_regions_that_may_be_needed_are_there_where_addresses_are_plentiful() -> None:
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
    finally:
        resource.setrlimit(limit, (soft, hard))
