"""The command ``check``: runs the steps of a flow and says what is wrong."""
