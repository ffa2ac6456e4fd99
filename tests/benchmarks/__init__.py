"""What the package promises about speed and memory, measured.

    python -m tests.benchmarks               everything
    ONLY=memory python -m tests.benchmarks   a part
    python -m tests.benchmarks --page        and writes docs/benchmarks.md
    SUBJECTS=ours,mosec ROUNDS=3 ...         of the servers only these, in fewer rounds

Not tests: pytest leaves them alone, since a busy machine would fail them. Everything that is compared runs in the same
run, in short interleaved rounds, each in processes of its own, and only ratios are judged.
"""
