"""Example application: text out of photographs, through a pipeline of worker processes."""
