"""Goal: what the user wants of a flow, and the load that tests it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf

from ...exceptions import ConfigurationError, got

_SLO = re.compile(r"p([0-9]{1,2}(?:\.[0-9]+)?)\s*[=<]=?\s*([0-9]*\.?[0-9]+)\s*(ms|s)?", re.IGNORECASE)


@dataclass(frozen=True)
class Objective:
    """A service level objective: the time within which a share of the requests is answered.

    Attributes:
        percent: Share of the requests, in percent.
        seconds: Their time limit in seconds.
    """

    percent: float
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Read one.

        Args:
            text: Such as ``p95=200ms`` or ``p99=1.5s``.

        Raises:
            ConfigurationError: It is none.
        """
        found = _SLO.fullmatch(text.strip())
        if found is None or not float(found[1]) or not float(found[2]):
            raise ConfigurationError(f"an objective is given as p95=200ms or p99=1.5s, {got(text)}")
        return cls(float(found[1]), float(found[2]) / (1000 if (found[3] or "s").lower() == "ms" else 1))

    def __str__(self) -> str:
        return f"p{self.percent:g} <= {self.seconds:g} s"


@dataclass(frozen=True)
class Goal:
    """What the user wants of a flow.

    Attributes:
        rate: Arriving tasks per second; None: as many as the flow can do.
        objective: Limit of their times; None: no limit.
    """

    rate: float | None = None
    objective: Objective | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 < self.rate < inf:
            raise ConfigurationError(f"the rate must be more than 0 tasks per second, {got(self.rate)}")

    def __str__(self) -> str:
        parts = [f"{self.rate:g} tasks/s"] if self.rate else []
        parts += [str(self.objective)] if self.objective else []
        return " with ".join(parts) or "the highest throughput"


@dataclass(frozen=True)
class Load:
    """Tasks that are sent to a flow: by callers that continue when they have their answer, or at random moments.

    Attributes:
        callers: The number of callers; 0: the tasks come at random moments.
        rate: Tasks per second at random moments.
    """

    callers: int = 0
    rate: float = 0.0

    def __str__(self) -> str:
        return f"{self.callers} callers" if self.callers else f"{self.rate:.3g} tasks/s at random moments"
