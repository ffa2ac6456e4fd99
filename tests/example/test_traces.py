"""The example prints traces if the environment says so."""

import json
import subprocess
import sys
from pathlib import Path

from ..support import DEADLINE, ROOT, script_environment, write_script

SCRIPT = """
    import asyncio
    import sys
    from pathlib import Path

    from example_app.main import app, flow
    from fastapi_aqueduct.testing import client, inline

    async def main():
        with inline(flow):
            async with client(app) as http:
                answer = await http.post("/ocr", content=Path(sys.argv[1]).read_bytes())
                assert answer.status_code == 200

    asyncio.run(main())
"""


def test_the_spans_of_a_request_are_one_trace(tmp_path: Path) -> None:
    """With its handlers in one process, which starts in a third of the time."""
    script = write_script(tmp_path, SCRIPT)
    picture = ROOT / "example_app" / "samples" / "tiny.png"
    done = subprocess.run(
        [sys.executable, str(script), str(picture)],
        env={**script_environment(), "OTEL_TRACES_EXPORTER": "console"},
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    spans = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({span["context"]["trace_id"] for span in spans}) == 1
    steps = {f"{part} step{step}" for part in ("queue", "step") for step in ("1_Decode", "2_Detect", "3_Recognise")}
    assert {span["name"] for span in spans} >= {"POST /ocr", "upload flow", *steps}
