"""Stands for the module of the package aqueduct."""

from __future__ import annotations

from .replaced import explain_names

explain_names(__name__)
