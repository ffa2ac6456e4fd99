"""What is recommended when the runs of the whole flow are known."""

from __future__ import annotations

import pytest

from fastapi_aqueduct.cli.tune.goal import Goal, Load
from fastapi_aqueduct.cli.tune.load_run import Outcome
from fastapi_aqueduct.cli.tune.recommendation import recommend
from fastapi_aqueduct.cli.tune.result import Comparison, Findings, Run
from fastapi_aqueduct.cli.tune.wording import percent_text, verdict

from .synthetic import make_curve, one_step


def run(rate: float, callers: int = 8, foreign: float = 0.0) -> Run:
    load = Load(callers=callers) if callers else Load(rate=rate)
    return Run({}, load, Outcome(rate, 8 / rate, [8 / rate], 0.0, 0.0, 1.0, foreign, 0, 0.0))


@pytest.mark.parametrize(
    ("before", "after", "comparison", "words"),
    [
        (run(100), run(90), Comparison.SLOWER, "Keep its own settings: they did 100 tasks/s."),
        (run(100), run(97), Comparison.EQUAL, "Its own settings did as much: 100 tasks/s."),  # perhaps with less memory
        (run(100), run(200), Comparison.FASTER, "That is 100 % more than the 100 tasks/s that its own settings did."),
        (run(100), run(50, foreign=1.0), Comparison.DISTURBED, "other processes used 0.0 cores meanwhile, and 1.0"),
        (run(100, callers=0), run(100, callers=0), Comparison.SAME_RATE, "At the same load its own settings did 100"),
        (run(100, callers=0), run(50, callers=0), Comparison.NONE, ""),  # at another rate, since the goal is too high
        (run(100), run(50, callers=0), Comparison.NONE, ""),  # at the rate that is wanted
        (None, run(50), Comparison.NONE, ""),
        (run(100), None, Comparison.NONE, ""),
    ],
)
def test_the_runs_say_whether_the_flow_keeps_its_own_settings(
    before: Run | None, after: Run | None, comparison: Comparison, words: str
) -> None:
    model = one_step(make_curve(0.0, 0.01))
    found = recommend(model, Goal())
    findings = Findings("flow", Goal(), 2, None, [], {}, model, found, before, after, [], False, 1.0)
    assert findings.comparison is comparison
    assert findings.keeps_own == (comparison is Comparison.SLOWER)
    text = " ".join(verdict(findings))
    assert words in text and ("own settings" in text) == bool(words)


def test_no_difference_has_no_sign() -> None:
    assert [percent_text(part) for part in (0.121, 0.001, -0.001, -0.25)] == ["+12 %", "0 %", "0 %", "-25 %"]
