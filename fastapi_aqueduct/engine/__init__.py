"""The engine: owns tasks, worker processes and shared memory; knows no HTTP."""
