"""Ray Serve with all its applications, in the cluster of RAY_ADDRESS."""

from __future__ import annotations

import signal
import sys

import ray
from ray import serve

from .serve_apps import DEPLOYMENTS


def main(port: int) -> None:
    ray.init(address="auto", log_to_driver=False)
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    for name, make in DEPLOYMENTS.items():
        serve.run(make().bind(), name=name, route_prefix=f"/{name}")
    signal.pause()


if __name__ == "__main__":
    main(int(sys.argv[2]))
