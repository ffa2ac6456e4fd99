"""The example application, as its users meet it."""
