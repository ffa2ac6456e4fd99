"""The HTTP edge as clients see it: real servers, real clients, and a proxy between them."""
