"""Which waiting task goes next where tenants share a flow: the queue alone, with a clock of our own."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastapi_aqueduct import FairShare
from fastapi_aqueduct.engine.marks import Marks
from fastapi_aqueduct.engine.scheduling.fair_queue import FairQueue
from fastapi_aqueduct.engine.scheduling.queue import AGING, BatchQueue
from fastapi_aqueduct.engine.scheduling.turns import BURST, Turns


@dataclass(eq=False)
class Item:
    tenant: str = ""
    priority: int = 0
    arrived_at: float = 0.0
    weight: float = 1.0
    cost: int = 0
    key: str = ""
    is_settled: bool = False
    marks: Marks = field(init=False)

    def __post_init__(self) -> None:
        self.marks = Marks(self.key.encode(), self.cost, b"", self.tenant.encode(), self.weight)


def tenants(items: Iterable[Item]) -> str:
    return "".join(item.tenant for item in items)


def queue(*items: Item, batch_size: int = 1, batch_timeout: float = 0.0, priorities: int = 1) -> FairQueue[Item]:
    return filled(FairQueue(batch_size, batch_timeout, priorities, 100), items)


def filled(made: FairQueue[Item], items: Iterable[Item]) -> FairQueue[Item]:
    for item in items:
        made.push(item)
    return made


def drain(waiting: FairQueue[Item], now: float = 0.0) -> list[Item]:
    found: list[Item] = []
    while waiting.count:
        found += waiting.pop_batch(now)
    return found


def settle(waiting: FairQueue[Item], item: Item) -> None:
    item.is_settled = True
    waiting.discard(item)


class TestTurns:
    def test_tenants_take_turns_and_each_keeps_the_order_of_its_tasks(self) -> None:
        items = [Item(tenant) for tenant in "aaaaabbc"]
        order = drain(queue(*items))
        assert tenants(order) == "abcabaaa"
        for tenant in "abc":
            assert [item for item in order if item.tenant == tenant] == [i for i in items if i.tenant == tenant]

    def test_a_batch_has_tasks_of_several_tenants(self) -> None:
        waiting = queue(*[Item(tenant) for tenant in "aaaaaabb"], batch_size=4)
        assert tenants(waiting.pop_batch(0.0)) == "abab"
        assert tenants(waiting.pop_batches(0.0, 2)) == "aaaa"

    def test_a_weight_is_a_share(self) -> None:
        items = [Item("a", weight=3.0) for _ in range(300)] + [Item("b") for _ in range(300)]
        assert Counter(item.tenant for item in drain(queue(*items))[:200]) == {"a": 150, "b": 50}

    def test_weights_that_are_no_whole_multiples_are_shares_too(self) -> None:
        items = [Item("a", weight=0.5) for _ in range(300)] + [Item("b", weight=0.2) for _ in range(300)]
        assert Counter(item.tenant for item in drain(queue(*items))[:140]) == {"a": 100, "b": 40}

    def test_a_quantum_of_many_tasks_is_not_sent_at_once(self) -> None:
        """Tenants of equal weight send one task each, though the quantum of a small weight or a large cost is many."""
        for other in (Item("c", weight=0.05), Item("c", cost=20)):
            waiting = queue(*[Item(tenant) for tenant in "ab" * 30], other)
            order = tenants(item for item in drain(waiting) if item.tenant != "c")
            assert order == "ab" * 30

    def test_the_share_is_one_of_costs(self) -> None:
        items = [Item("large", cost=50) for _ in range(50)] + [Item("small", cost=5) for _ in range(500)]
        found = Counter[str]()
        for item in drain(queue(*items))[:220]:
            found[item.tenant] += item.cost
        assert abs(found["large"] - found["small"]) <= 50

    def test_a_tenant_that_had_no_tasks_for_some_turns_may_send_as_many_at_once_and_no_more(self) -> None:
        waiting = queue(*[Item("a") for _ in range(50)])
        assert tenants(itertools.chain(*(waiting.pop_batch(0.0) for _ in range(5)))) == "aaaaa"
        filled(waiting, [Item("b") for _ in range(20)])
        assert tenants(drain(waiting)).startswith("bbbbb" + "ab" * 15)
        waiting = queue(*[Item("a") for _ in range(100)])
        for _ in range(10 * BURST // 2):
            waiting.pop_batch(0.0)
        filled(waiting, [Item("b") for _ in range(20)])
        assert tenants(drain(waiting)).startswith("b" * BURST + "abab")

    def test_coming_and_going_gains_a_tenant_nothing(self) -> None:
        """One that has a task in the queue only now and then gets no more than one that always has some."""
        waiting = queue(*[Item("always") for _ in range(3000)])
        served = Counter[str]()
        for _ in range(1000):
            if not waiting.waiting_of(0, b"often"):
                filled(waiting, [Item("often") for _ in range(3)])
            served[waiting.pop_batch(0.0)[0].tenant] += 1
        assert served["often"] <= served["always"] + BURST + 3

    def test_each_tenant_gets_its_turn_however_many_others_come(self) -> None:
        waiting = queue(*[Item("x") for _ in range(100)])
        found: list[Item] = []
        for number in range(1000):
            waiting.push(Item(f"of {number}"))
            found += waiting.pop_batch(0.0)
        assert tenants(found).count("x") >= 25  # each turn of it leaves one more tenant in the next round

    def test_many_tenants_that_come_and_go_leave_nothing(self) -> None:
        turns: Turns[Item] = Turns(is_keyed=False)
        for _ in range(1000):
            turns.push(Item("x"))
        for number in range(1000):
            turns.push(Item(f"of {number}"))
            turns.take(turns.peek(), 0.0)
        assert turns.known <= 200

    @pytest.mark.parametrize("outlier", [1000, 100_000, 2**64 - 1])
    def test_a_task_that_costs_a_lot_does_not_change_the_shares_after_it(self, outlier: int) -> None:
        waiting: FairQueue[Item] = FairQueue(1, 0.0, 1, 100, most_cost=100)
        waiting.push(Item("a", cost=outlier, weight=4.0))
        for _ in range(2000):
            waiting.push(Item("a", cost=10, weight=4.0))
            waiting.push(Item("b", cost=10))
        assert waiting.pop_batch(0.0)[0].cost == outlier
        order = tenants(drain(waiting))
        assert 20 <= order[:200].count("b") <= 140  # it owes eight turns
        assert 180 <= order[200:1200].count("b") <= 220

    def test_others_go_while_some_are_held_and_pay_nothing(self) -> None:
        waiting = queue(*[Item(tenant) for tenant in "aaabbbccc"], Item("b", priority=1), priorities=2)
        found = [item for _ in range(9) for item in waiting.pop_batch(0.0, {b"a"})]
        assert tenants(found) == "bbcbcbc"
        assert found[0].priority == 1
        filled(waiting, [Item("b") for _ in range(3)])
        assert tenants(drain(waiting)) == "ababab"

    def test_a_returned_task_is_next_and_is_paid_once(self) -> None:
        waiting = queue(*[Item(tenant) for tenant in "aabb"])
        (first,) = waiting.pop_batch(0.0)
        waiting.push_front(first)
        assert waiting.pop_batch(0.0) == [first]
        assert tenants(drain(waiting)) == "bab"

    def test_tenants_without_tasks_are_forgotten(self) -> None:
        turns: Turns[Item] = Turns(is_keyed=False)
        for _ in range(1000):
            turns.push(Item("always"))
        for number in range(900):
            turns.push(Item(f"once{number}"))
            for _ in range(2):
                turns.take(turns.peek(), 0.0)
            assert turns.known <= 2 * BURST + 2
        while turns.count:
            turns.take(turns.peek(), 0.0)
        assert turns.known == 0


class TestPriorities:
    def test_a_priority_goes_before_all_turns(self) -> None:
        assert tenants(drain(queue(*[Item(t) for t in "aab"], Item("c", 1), Item("a", 1), priorities=2))) == "caaba"

    def test_waiting_raises_the_tenant_that_was_not_served(self) -> None:
        def winner(waited: float) -> str:
            return tenants(queue(Item("a"), Item("b", 2, waited), priorities=3).pop_batch(waited))

        assert winner(1.9 * AGING) == winner(2.0 * AGING) == "b"
        assert winner(2.1 * AGING) == "a"

    def test_a_long_queue_of_one_tenant_does_not_overtake_the_priority_of_another(self) -> None:
        """In a queue without tenants its oldest task has waited for long, and so goes before all priorities."""
        flood = [Item("flood", 0, 0.0) for _ in range(1000)]
        plain: BatchQueue[Item] = BatchQueue(1, 0.0, 2)
        fair = queue(*flood, priorities=2)
        for item in flood:
            plain.push(item)
        now = 0.0
        for waiting in (plain, fair):
            for _ in range(100):
                now += 0.1
                waiting.pop_batch(now)
            waiting.push(Item("other", 1, now))
        assert tenants(plain.pop_batch(now + 0.1)) == "flood"
        assert tenants(fair.pop_batch(now + 0.1)) == "other"

    def test_steady_load_of_a_high_level_starves_no_tenant_of_a_low_one(self) -> None:
        low = [Item(f"low{number}", 0, 0.0) for number in range(5)]
        waiting = queue(*low, priorities=2)
        now = 0.0
        while any(item in low for item in waiting.pop_batch(now)) or waiting.waiting(0):
            waiting.push(Item("high", 1, now))
            waiting.push(Item("high", 1, now))
            now += 0.01
            assert now < 2.2 * AGING
        assert waiting.waiting(1) > 50


class TestKeys:
    def test_the_next_tenant_chooses_the_key_and_others_fill_the_batch_in_turns(self) -> None:
        waiting = filled(FairQueue(3, 0.0, 1, 100, is_keyed=True), [])
        filled(waiting, [Item("a", key="x") for _ in range(6)] + [Item("b", key="y"), Item("c", key="x")])
        batches = [waiting.pop_batch(0.0) for _ in range(4)]
        assert [{item.key for item in batch} for batch in batches] == [{"x"}, {"y"}, {"x"}, {"x"}]
        assert [tenants(batch) for batch in batches] == ["aca", "b", "aaa", "a"]

    def test_many_keys_gain_a_tenant_nothing(self) -> None:
        waiting: FairQueue[Item] = FairQueue(1, 0.0, 1, 1000, is_keyed=True)
        filled(waiting, [Item("flood", key=str(number % 50)) for number in range(500)])
        filled(waiting, [Item("other", key="own") for _ in range(50)])
        served = Counter(waiting.pop_batch(0.0)[0].tenant for _ in range(100))
        assert served == {"flood": 50, "other": 50}

    def test_places_in_batches_of_its_key_count_for_a_tenant(self) -> None:
        """One key gets a tenant full batches. The others go next until they have caught up, for eight turns at most."""
        waiting: FairQueue[Item] = FairQueue(16, 0.0, 1, 10_000, is_keyed=True)
        filled(waiting, [Item("same", key="x") for _ in range(5000)])
        filled(waiting, [Item("other", key=str(number)) for number in range(500)])
        batches = [waiting.pop_batch(0.0) for _ in range(200)]
        owners = "".join(batch[0].tenant[0] for batch in batches)
        assert "o" * (BURST + 2) not in owners and "ss" not in owners
        served = Counter(item.tenant for batch in batches for item in batch)
        assert served["other"] > served["same"] / 3

    def test_weights_count_in_batches_of_one_key(self) -> None:
        waiting: FairQueue[Item] = FairQueue(64, 0.0, 1, 10_000, is_keyed=True)
        filled(waiting, [Item("a", weight=4.0, key="x") for _ in range(2000)])
        filled(waiting, [Item("b", key="x") for _ in range(2000)])
        served = Counter(item.tenant for _ in range(20) for item in waiting.pop_batch(0.0))
        assert abs(served["a"] - 4 * served["b"]) <= 10

    def test_a_key_is_due_when_its_own_oldest_task_has_waited(self) -> None:
        waiting: FairQueue[Item] = FairQueue(2, 1.0, 1, 100, is_keyed=True)
        filled(waiting, [Item("a", arrived_at=0.0, key="x"), Item("b", arrived_at=0.5, key="y")])
        assert waiting.due_at() == 1.0
        filled(waiting, [Item("b", arrived_at=0.6, key="y")])
        assert waiting.due_at() == 0.5  # it is full
        assert tenants(waiting.pop_batch(0.7)) == "bb"
        assert waiting.due_at() == 1.0

    def test_a_batch_costs_no_more_than_it_may_and_a_larger_task_goes_alone(self) -> None:
        waiting: FairQueue[Item] = FairQueue(8, 0.0, 1, 100, most_cost=10)
        filled(waiting, [Item("a", cost=4), Item("b", cost=4), Item("a", cost=40), Item("b", cost=1)])
        assert [sorted(item.cost for item in batch) for batch in iter(lambda: waiting.pop_batch(0.0), [])] in (
            [[4, 4], [40], [1]],
            [[1, 4, 4], [40]],
        )


@given(st.integers(1, 1000), st.integers(1, 10_000))
@example(290, 100)
def test_a_share_of_the_queue_is_rounded_down_and_not_by_what_floats_lose(thousandths: int, size: int) -> None:
    assert FairShare("tenant", queue_share=thousandths / 1000).limit(size) == max(1, thousandths * size // 1000)


@pytest.mark.parametrize("is_keyed", [False, True])
@given(
    course=st.lists(
        st.tuples(
            st.sampled_from(["push", "push", "settle", "take", "return", "alone", "pass"]),
            st.integers(0, 2),
            st.integers(0, 9),
        ),
        max_size=60,
    ),
    batch_size=st.integers(1, 4),
)
def test_nothing_is_lost_doubled_or_reordered(
    is_keyed: bool, course: list[tuple[str, int, int]], batch_size: int
) -> None:
    waiting: FairQueue[Item] = FairQueue(batch_size, 0.0, 3, 100, is_keyed)
    there: list[Item] = []
    alone: list[Item] = []
    for now, (action, priority, choice) in enumerate(course):
        if action in ("push", "alone"):
            item = Item("abc"[choice % 3], priority, now / 100, [1.0, 2.5][choice % 2], choice, "xy"[choice % 2])
            (there if action == "push" else alone).append(item)
            waiting.push(item) if action == "push" else waiting.push_alone(item)
        elif action == "settle" and there + alone:
            item = (there + alone)[choice % len(there + alone)]
            settle(waiting, item)
            (there if item in there else alone).remove(item)
        elif waiting.count:
            held = {"abc"[choice % 3]} if action == "pass" else set()
            batch = waiting.pop_batch(now / 100, {tenant.encode() for tenant in held})
            if any(item.tenant not in held for item in alone):
                assert batch == [next(item for item in alone if item.tenant not in held)]
                alone.remove(batch[0])
                continue
            most = sum(item.tenant not in held for item in there)
            assert len(batch) == min(batch_size, most) or (is_keyed and batch)
            assert not held & {item.tenant for item in batch}
            assert not is_keyed or len({item.key for item in batch}) == min(1, most)
            for item in batch:
                before = there[: there.index(item)]
                same = [o for o in before if (o.priority, o.tenant) == (item.priority, item.tenant)]
                assert not [other for other in same if not is_keyed or other.key == item.key]
                there.remove(item)
            if action == "return":
                for item in reversed(batch):
                    waiting.push_front(item)
                there[:0] = batch
        assert waiting.count == len(there) + len(alone)
        assert [waiting.waiting(level) for level in range(3)] == [
            sum(item.priority == level for item in there + alone) for level in range(3)
        ]
        for level, tenant in itertools.product(range(3), "abc"):
            count = sum((item.priority, item.tenant) == (level, tenant) for item in there)
            assert waiting.waiting_of(level, tenant.encode()) == count
            assert 0 <= waiting.ahead(level, tenant.encode(), 1.0) <= waiting.count
        if waiting.count and "return" not in [action for action, *_ in course]:  # then the oldest may not be in front
            assert waiting.oldest_at() == min(item.arrived_at for item in there + alone)
    assert len(drain(waiting)) == len(there) + len(alone)
    assert waiting.tenants == 0


@given(
    st.lists(
        st.tuples(st.floats(0.1, 10.0), st.lists(st.integers(1, 20), min_size=1, max_size=3)), min_size=2, max_size=5
    )
)
def test_tenants_that_always_have_tasks_get_their_shares(declared: list[tuple[float, list[int]]]) -> None:
    """At any time the costs that two of them have sent, divided by their weights, differ by little: by two quanta."""
    turns: Turns[Item] = Turns(is_keyed=False)
    costs = [itertools.cycle(costs) for _, costs in declared]
    for number, (weight, _) in enumerate(declared):
        for _ in range(2):
            turns.push(Item(str(number), weight=weight, cost=next(costs[number])))
    least = min(weight for weight, _ in declared)
    sent = [0.0] * len(declared)
    for _ in range(300):
        item = turns.peek()
        turns.take(item, 0.0)
        number = int(item.tenant)
        sent[number] += item.cost / item.weight
        turns.push(Item(item.tenant, weight=item.weight, cost=next(costs[number])))
        assert max(sent) - min(sent) <= (2 * 20 + 2 * 20) / least


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.text("xyz", min_size=1, max_size=3), min_size=2, max_size=4),
    st.lists(st.sampled_from([1.0, 2.5]), min_size=4, max_size=4),
    st.integers(1, 16),
)
@example(["y", "y", "xy"], [1.0, 2.5, 1.0, 1.0], 7)
def test_no_tenant_that_has_tasks_waits_for_long_whatever_keys_others_have(
    keys: list[str], weights: list[float], batch_size: int
) -> None:
    waiting: FairQueue[Item] = FairQueue(batch_size, 0.0, 1, 10_000, is_keyed=True)
    left = [itertools.cycle(names) for names in keys]
    for tenant in [*range(len(keys))] * 2 * batch_size:
        waiting.push(Item(str(tenant), weight=weights[tenant], key=next(left[tenant])))
    served = [0] * len(keys)
    for now in range(120):
        for item in waiting.pop_batch(0.0):
            tenant = int(item.tenant)
            served[tenant] = now
            waiting.push(Item(item.tenant, weight=item.weight, key=next(left[tenant])))
        assert now - min(served) <= (BURST + 2) * 2.5 * len(keys)


class Simulation:
    """Servers of one step with a queue, tenants that send at random times, and a clock.

    Args:
        waiting: The queue.
        servers: Calls at the same time.
        rates: Tasks per second of each tenant. A call takes a second.
        seed: Of the random times.
        weights: Those of the tenants.
        costs: The seconds that a call with one task of each tenant takes.
    """

    def __init__(
        self,
        waiting: FairQueue[Item],
        servers: int,
        rates: list[float],
        seed: int,
        weights: Sequence[float] = (),
        costs: Sequence[int] = (),
    ) -> None:
        self._waiting = waiting
        self._weights = weights or [1.0] * len(rates)
        self._costs = costs or [1] * len(rates)
        self._free = servers
        self._random = random.Random(seed)
        self._rates = rates
        self._events: list[tuple[float, int, int, list[Item]]] = []
        self._numbers = itertools.count()
        self.latencies: defaultdict[int, list[float]] = defaultdict(list)
        self.refused: Counter[int] = Counter()

    def run(self, seconds: float) -> Simulation:
        for tenant in range(len(self._rates)):
            self._expect(tenant, 0.0)
        while self._events:
            now, _, tenant, done = heapq.heappop(self._events)
            if tenant >= 0:
                self._arrive(tenant, now)
                if now < seconds:
                    self._expect(tenant, now)
            else:
                self._free += 1
                for item in done:
                    self.latencies[int(item.tenant)].append(now - item.arrived_at)
            while self._free and self._waiting.count:
                self._free -= 1
                batch = self._waiting.pop_batch(now)
                done_at = now + max(item.cost for item in batch)
                heapq.heappush(self._events, (done_at, next(self._numbers), -1, batch))
        return self

    def _expect(self, tenant: int, now: float) -> None:
        at = now + self._random.expovariate(self._rates[tenant])
        heapq.heappush(self._events, (at, next(self._numbers), tenant, []))

    def _arrive(self, tenant: int, now: float) -> None:
        if self._waiting.waiting_of(0, str(tenant).encode()) < self._waiting.limit:
            self._waiting.push(Item(str(tenant), 0, now, self._weights[tenant], self._costs[tenant]))
        else:
            self.refused[tenant] += 1

    def p95(self, of: Iterable[int]) -> float:
        """The 95th percentile of the seconds from the arrival of a task to its end."""
        times = sorted(itertools.chain(*(self.latencies[tenant] for tenant in of)))
        return times[int(0.95 * len(times))]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    "count, servers, batch_size, load",
    [(4, 1, 1, 0.8), (5, 4, 1, 0.8), (20, 1, 1, 0.8), (20, 4, 1, 0.8), (10, 1, 8, 0.8), (10, 2, 8, 0.9)],
)
def test_one_that_sends_ten_times_its_share_raises_the_p95_of_others_little(
    count: int, servers: int, batch_size: int, load: float, seed: int
) -> None:
    """Tenants that together use ``load`` of what the servers can do; then the first of them sends ten times as much."""

    def simulate(factor: float) -> Simulation:
        places = servers * batch_size
        share = load * places / count
        waiting: FairQueue[Item] = FairQueue(batch_size, 0.0, 1, 300)
        return Simulation(waiting, servers, [factor * share, *[share] * (count - 1)], seed).run(5000 / places)

    before, flooded, others = simulate(1), simulate(10), range(1, count)
    assert flooded.p95(others) <= 1.3 * before.p95(others)
    assert flooded.refused.keys() == {0}
    assert flooded.p95([0]) > 10 * flooded.p95(others)
    assert not before.refused


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("weights, costs", [([1.0] * 8 + [0.1] * 2, [1] * 10), ([1.0] * 10, [1] * 9 + [10])])
def test_it_does_so_where_some_have_small_weights_or_large_tasks(
    weights: list[float], costs: list[int], seed: int
) -> None:
    """The quantum of a tenant is ten tasks then."""

    def simulate(factor: float) -> Simulation:
        rates = [0.8 * weight / sum(weights) / cost for weight, cost in zip(weights, costs, strict=True)]
        rates[0] *= factor
        return Simulation(FairQueue(1, 0.0, 1, 300), 1, rates, seed, weights, costs).run(5000)

    others = range(1, 10)
    assert simulate(10).p95(others) <= 1.3 * simulate(1).p95(others)
