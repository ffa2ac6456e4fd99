"""Exporters that read the statistics of flows; each needs its own optional dependency."""
