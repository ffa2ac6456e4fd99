"""Throws hostile bytes at what reads bytes: ``python -m tests.fuzz SECONDS`` looks for more of them."""
