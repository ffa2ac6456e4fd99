"""Which tasks share a run."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastapi_aqueduct.engine.scheduling.runs import Run, Runs

KEYS = st.sampled_from([b"a", b"b", b"c"])


class Entering(RuleBasedStateMachine):
    """Tasks enter and leave and runs end, in any order.

    The model is a list of the tasks that wait for each key, in the order of their arrival.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runs: Runs[int] = Runs()
        self.waiting: dict[bytes, list[int]] = {}
        self.open: dict[bytes, Run[int]] = {}
        self.count = self.followers = 0

    @rule(key=KEYS)
    def enter(self, key: bytes) -> None:
        self.count += 1
        waiting = self.waiting.setdefault(key, [])
        assert (key in self.runs) == bool(waiting)
        run, is_new = self.runs.enter(key, self.count)
        assert is_new == (not waiting)
        if is_new:
            assert all(run is not other for other in self.open.values()), "a run that has ended is used again"
            self.open[key] = run
        else:
            self.followers += 1
        assert run is self.open[key] is self.runs.run_of(self.count)
        waiting.append(self.count)

    @precondition(lambda self: any(self.waiting.values()))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """The first one, too: the run goes on for the others."""
        task = data.draw(st.sampled_from([task for waiting in self.waiting.values() for task in waiting]))
        key = next(key for key, waiting in self.waiting.items() if task in waiting)
        self.waiting[key].remove(task)
        ended = self.runs.leave(task)
        assert (ended is None) == bool(self.waiting[key])
        if ended is not None:
            assert ended is self.open.pop(key)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.open)))
        run = self.open.pop(key)
        assert self.runs.end(run) == self.waiting.pop(key)
        assert not run.members and key not in self.runs

    @invariant()
    def each_task_is_in_the_run_of_its_key(self) -> None:
        assert len(self.runs) == len(self.open)
        assert self.runs.followers == self.followers
        for key, run in self.open.items():
            assert run.key == key and list(run.members) == self.waiting[key]

    def teardown(self) -> None:
        """Nothing is kept of runs that have ended."""
        for task in list(self.everything()):
            self.runs.leave(task)
        assert not len(self.runs) and not vars(self.runs)["_run_of"] and not vars(self.runs)["_open"]

    def everything(self) -> Iterator[int]:
        for waiting in self.waiting.values():
            yield from waiting


TestEntering = Entering.TestCase
