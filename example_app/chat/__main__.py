"""``python -m example_app.chat``: the demonstration."""

from example_app.chat.demo import main

main()
