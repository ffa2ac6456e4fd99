"""Functions in workers."""
