"""A stream endpoint, a group, devices, an elastic step and the status page in one application."""

from __future__ import annotations

import re

from fastapi_aqueduct.testing import client, inline

from ..support import DEADLINE
from .vision import Prompt, app, flow


async def test_all_parts_work_together() -> None:
    with inline(flow):
        async with client(app) as http:
            response = await http.post("/generate", params={"text": "One TWO"}, timeout=DEADLINE)
            assert response.headers["content-type"].startswith("text/event-stream")
            words = re.findall(r'^data: \{"text":"(.*)"\}$', response.text, re.MULTILINE)
            assert words == ["one", "two", "2 faces, a plate on cuda:0"]
            assert (await http.get("/ops/")).status_code == 403
            assert (await http.get("/ops/", headers={"x-key": "secret"})).status_code == 200
            task = await flow.process(Prompt("three"), DEADLINE)
            assert (task.faces, task.answer) == (1, "1 faces, a plate on cuda:0")
            assert [item async for item in flow.stream(Prompt("four"), DEADLINE)] == ["four", task.answer]
            assert sorted(step.step for step in task.metrics.steps) == ["caption", *list(flow.steps)[:3]]
    assert flow.shape == ("step1_Decode", (("step2_Faces",), ("step3_Plates",)), "caption")
