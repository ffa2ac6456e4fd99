"""Integrations of flows with web frameworks, under the names of the package aqueduct."""
