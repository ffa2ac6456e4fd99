"""Metrics of flows: for Prometheus, and for StatsD with the names of the package aqueduct.

The modules for other packages, such as `prometheus`, need these installed; the names here need nothing.
"""

from .base import AQUEDUCT as AQUEDUCT
from .base import MAIN_PROCESS as MAIN_PROCESS
from .base import IExtendable as IExtendable
from .base import IMetricsItems as IMetricsItems
from .base import MetricsItems as MetricsItems
from .base import MetricsTypes as MetricsTypes
from .collect import Collector as Collector
from .export import DummyExporter as DummyExporter
from .export import Exporter as Exporter
from .export import ToStatsDMetricsExporter as ToStatsDMetricsExporter
