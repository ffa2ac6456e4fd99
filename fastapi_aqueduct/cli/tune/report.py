"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

from datetime import datetime

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from ..sizes import bytes_as_text, seconds_as_text
from .files import env_text
from .plots import limits_plot, plots_of
from .result import Findings
from .wording import percent_text, rate_text, step_words, verdict

_TEMPLATE = "report.html.jinja"


def report_text(findings: Findings) -> str:
    """Return the report.

    Args:
        findings: What was found.
    """
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "seconds": seconds_as_text,
        "rate": rate_text,
        "memory": bytes_as_text,
        "difference": percent_text,
    }
    found = findings.recommendation
    return environment.get_template(_TEMPLATE).render(
        findings=findings,
        recommended=found,
        verdict=list(verdict(findings)),
        env=env_text(findings),
        limits=None if found is None else Markup(limits_plot(found.capacity.limits, found.capacity.bottleneck)),
        steps=[
            (step, list(step_words(step)), [(title, Markup(plot)) for title, plot in plots_of(step)])
            for step in findings.steps
        ],
        sizes={step.name: step.size_option for step in findings.steps},
        runs=[("its own settings", findings.before), ("the recommended settings", findings.after)],
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
