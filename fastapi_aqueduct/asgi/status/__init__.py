"""The status page: flows, steps and workers in a browser, live."""
