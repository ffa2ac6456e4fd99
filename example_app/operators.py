"""Who may see the status page of the example, and use its buttons."""

import os
import secrets
from typing import Annotated

from fastapi import Depends, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials

OPERATOR = "operator"
PASSWORD = "OPS_PASSWORD"
"""The environment variable with the password. While it is not set, no client gets the page."""


def check_operator(given: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> None:
    """Refuse a request that does not come from the operator."""
    password = os.environ.get(PASSWORD, "")
    wanted = f"{OPERATOR}:{password}".encode()
    if not password or not secrets.compare_digest(f"{given.username}:{given.password}".encode(), wanted):
        raise HTTPException(401, headers={"WWW-Authenticate": "Basic"})
