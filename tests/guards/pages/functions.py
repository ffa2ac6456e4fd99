import runpy

import test_functions
from main import app
from starlette.testclient import TestClient

if __name__ == "__main__":
    with TestClient(app) as client:
        assert client.post("/stars?text=four").json() == 5
        assert client.post("/brighten", content=bytes([1, 250])).content == bytes([21, 255])
        assert client.post("/generate?text=a+text").text == 'data: "A"\n\ndata: "TEXT"\n\n'
        assert client.get("/about?name=names").json() == "all about names"
    test_functions.test_stars()
    test_functions.test_the_endpoints()
    runpy.run_path("script.py", run_name="__main__")
