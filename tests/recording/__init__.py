"""Tasks that fail, in files: recorded and replayed."""
