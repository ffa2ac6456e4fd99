"""``python -m example_app``: the demonstration."""

from example_app.demo import main

main()
