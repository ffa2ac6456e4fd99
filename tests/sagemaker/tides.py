"""A plug-in in the form of inference-server's manual, which marks its hooks; it says which process has answered."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final, Literal

from fastapi_aqueduct.sagemaker import InvocationError, MIMEAccept, plugin_hook

JSON: Final = "application/json"
CSV: Final = "text/csv"


@plugin_hook
def model_fn(model_dir: str) -> dict[str, Any]:
    with Path(model_dir, "loads").open("a") as file:
        file.write(f"{os.getpid()}\n")
    return {"Brest": 7.5, "dir": model_dir}


@plugin_hook
def ping_fn(model: dict[str, Any]) -> bool:
    return not Path(model["dir"], "ill").exists()


@plugin_hook
def input_fn(input_data: bytes, content_type: Literal["application/json", "multipart/form-data"]) -> str:
    if content_type.startswith("multipart"):
        return f"{len(input_data)} {input_data[:2].decode()}"
    try:
        return str(json.loads(input_data)["harbour"])
    except (ValueError, KeyError) as exc:
        raise InvocationError("The body names no harbour.") from exc


@plugin_hook
def predict_fn(data: str, model: dict[str, Any]) -> dict[str, Any]:
    if data == "Atlantis":
        raise LookupError("there is no tide in Atlantis")
    return {"harbour": data, "height": model.get(data, 0.0), "pid": os.getpid()}


@plugin_hook
def output_fn(
    prediction: dict[str, Any], accept: MIMEAccept
) -> tuple[bytes, Literal["application/json", "text/csv"]]:
    if accept.best_match([JSON, CSV]) == CSV:
        return f"{prediction['harbour']},{prediction['height']}\n".encode(), CSV
    return json.dumps(prediction).encode(), JSON


def batch_strategy() -> str:
    """Is no hook: it has no mark, and others have."""
    return "none"
