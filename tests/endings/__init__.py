"""Every way in which a request can end, and what is left of it in shared memory."""
