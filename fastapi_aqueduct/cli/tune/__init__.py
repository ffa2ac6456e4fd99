"""The command ``tune``: measures the steps of a flow and recommends settings."""
