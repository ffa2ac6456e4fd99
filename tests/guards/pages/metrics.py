import logging
import os
import socket

os.environ["PROMETHEUS_MULTIPROC_DIR"] = "."  # in this mode the first application shows no flows, and the second does

import sending
import slow
from both import app as both
from main import app
from starlette.testclient import TestClient

from fastapi_aqueduct.metrics.collect import AqueductMetricsStorage

if __name__ == "__main__":
    logging.disable()  # the warning of it
    with TestClient(app) as client:
        assert client.get("/words?text=one+two").text == "2"
        assert "aqueduct_tasks_total" not in client.get("/metrics").text
    with TestClient(both) as client:
        assert "aqueduct_tasks_total" in client.get("/metrics/").text
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 8125))
        server.settimeout(5)
        metrics = AqueductMetricsStorage()
        metrics.handle_times.add("count", 0.002)
        sending.exporter.export(metrics)
        assert server.recv(100) == b"aqueduct.texts.handle_time.count:2.000000|ms"
        sending.exporter.target.client.close()
    assert slow.note_slow in slow.flow.subscribers
