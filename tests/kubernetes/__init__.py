"""The manifests of the documentation, and a cluster of local processes that acts on them."""
