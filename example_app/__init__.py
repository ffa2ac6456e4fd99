"""Example application: reads the text of photographs with a pipeline of worker processes."""
