"""SocketFlow: one pipeline for several web processes, under the names of the package aqueduct."""
