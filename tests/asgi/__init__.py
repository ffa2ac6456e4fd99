"""Flows behind HTTP: real worker processes, through a real server or straight into the application."""
