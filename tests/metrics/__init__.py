"""What flows say about themselves to the outside."""
