"""Tasks that have failed, in files, to be replayed."""
