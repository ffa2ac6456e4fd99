"""The command ``replay``: runs a recorded task in this process."""
