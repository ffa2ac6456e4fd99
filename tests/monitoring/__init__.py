"""The dashboard and the alert rules of the documentation, in front of a real Prometheus."""
