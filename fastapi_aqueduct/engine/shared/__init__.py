"""One pipeline for several API processes: both ends of the connection between them."""
