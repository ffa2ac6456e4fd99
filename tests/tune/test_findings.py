"""What is recommended when the runs of the whole flow are known."""

from __future__ import annotations

import pytest

from fastapi_aqueduct.cli.tune.goal import Goal, Load
from fastapi_aqueduct.cli.tune.load_run import Outcome
from fastapi_aqueduct.cli.tune.result import Findings, Run


def run(rate: float, callers: int = 8, foreign: float = 0.0) -> Run:
    load = Load(callers=callers) if callers else Load(rate=rate)
    return Run({}, load, Outcome(rate, 8 / rate, [8 / rate], 0.0, 0.0, 1.0, foreign, 0, 0.0))


@pytest.mark.parametrize(
    ("before", "after", "keeps_own"),
    [
        (run(100), run(90), True),
        (run(100), run(97), False),  # as good as equal, and perhaps with less memory
        (run(100), run(200), False),
        (run(100, foreign=0.0), run(50, foreign=1.0), False),  # another program has taken a core meanwhile
        (run(100), run(50, callers=0), False),  # at the rate that is wanted
        (None, run(50), False),
        (run(100), None, False),
    ],
)
def test_a_flow_that_is_faster_with_its_own_settings_keeps_them(
    before: Run | None, after: Run | None, keeps_own: bool
) -> None:
    findings = Findings("flow", Goal(), 2, None, [], {}, None, None, before, after, [], False, 1.0)
    assert findings.keeps_own == keeps_own
