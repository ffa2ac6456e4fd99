import os
import subprocess
import sys
from pathlib import Path

from main import flow, make_task

COMMAND = [sys.executable, "-c", "from fastapi_aqueduct.cli.main import main; main()", "tune", "main:flow"]

if __name__ == "__main__":
    assert make_task().text
    arguments = ["--sample", "make_task", "--rate", "50", "--slo", "p95=200ms", "--write", "tune.env"]
    environ = {**os.environ, "AQUEDUCT_TUNE_BUDGET": "6"}
    shown = subprocess.run([*COMMAND, *arguments], env=environ, check=True, capture_output=True, text=True).stdout
    assert "The bottleneck is " in shown
    assert "At 50 tasks/s at random moments expect " in shown
    text = Path("tune.html").read_text()
    for heading in ("What to do", "What each part can do", "Throughput of a worker", "Memory of a worker"):
        assert heading in text
    variables = "set -a; . ./tune.env; set +a; exec env"
    environment = subprocess.run(["sh", "-euc", variables], check=True, capture_output=True, text=True).stdout
    for setting in flow.settings:
        if setting.option in ("nprocs", "batch_size", "batch_timeout", "worker.threads"):
            assert f"\n{setting.variable}=" in environment
