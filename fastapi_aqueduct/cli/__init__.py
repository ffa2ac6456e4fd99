"""The command ``fastapi-aqueduct``."""
