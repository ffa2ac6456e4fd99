"""Servers that do the same work with different packages, to be loaded by the same client.

Each module is a program: ``python -m tests.benchmarks.servers.NAME WORK PORT``. The works are those of `work`.
"""
