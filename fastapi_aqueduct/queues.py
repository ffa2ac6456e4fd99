"""Queues between steps, which the package aqueduct shows and this one does not."""

from __future__ import annotations

from .replaced import explain_names

explain_names(__name__)
