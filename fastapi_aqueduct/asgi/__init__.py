"""Ties flows to FastAPI and Starlette applications; nothing below this package knows what a request is."""
