"""Steps whose handlers run on other machines."""
