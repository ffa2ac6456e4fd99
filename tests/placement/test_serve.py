"""An application with a flow in a replica of Ray Serve, as the page says."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ..support import ROOT, script_environment
from .nodes import Cluster

pytestmark = pytest.mark.long

MAIN = """
from fastapi import FastAPI

from fastapi_aqueduct import Aqueduct, in_worker

@in_worker
def double(number: int) -> int:
    return 2 * number

app = FastAPI(lifespan=Aqueduct(double).lifespan)

@app.post("/double")
async def answer(number: int) -> int:
    return await double(number)
"""

RUN = """
import sys
import httpx, ray
from ray import serve
from service import service

ray.init(address=sys.argv[1], runtime_env={"env_vars": {"PYTHONPATH": sys.argv[2]}}, log_to_driver=False)
serve.start(http_options={"host": "127.0.0.2", "port": int(sys.argv[3])})
serve.run(service)
try:
    url = f"http://127.0.0.2:{sys.argv[3]}/double"
    print([httpx.post(url, params={"number": number}, timeout=60).json() for number in range(3)])
finally:
    serve.shutdown()
"""


def test_the_application_of_the_page(cluster: Cluster, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "ray.md").read_text()
    (block,) = re.findall(r"^```python\n# service.py\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for name, text in (("service", block.replace("num_replicas=2", "num_replicas=1")), ("main", MAIN), ("run", RUN)):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
    with socket.socket() as sock:
        sock.bind(("127.0.0.2", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "run.py", cluster.address, f"{tmp_path}:{ROOT}", str(port)]
    done = subprocess.run(
        command, cwd=tmp_path, env=script_environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert "[0, 2, 4]" in done.stdout.splitlines(), done.stdout + done.stderr
