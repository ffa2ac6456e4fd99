"""The turns of tenants: which of the tasks that wait at one level of priority goes next. Has no clock."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Container, Iterable, Iterator
from itertools import chain
from typing import Generic, Protocol, TypeVar

from ..marks import Marks
from .ranking import Ranking

BURST = 8
"""Turns that a tenant may save up, so that one which sends less than its share does not wait for each of its tasks."""


class Owned(Protocol):
    """What can wait for the turn of its tenant. It is hashed by its identity.

    Attributes:
        arrived_at: When it arrived.
    """

    arrived_at: float

    @property
    def marks(self) -> Marks:
        """Its tenant, the weight of that one, its batch key, and what it costs; 0 counts as 1."""


T = TypeVar("T", bound=Owned)


class Tenant(Generic[T]):
    """A tenant that has tasks, or had some a few turns ago.

    Attributes:
        name: Its canonical name.
        weight: The share that it gets, in proportion to the weights of others.
        credit: The cost of the tasks that it may send before its next turn; below 0 if it was served without a turn.
        turn: The number of the last round of which it has its quantum: less than that of the present round if it has
            missed some, and more if it has taken some in advance.
        since: When it was served last; when its first task arrived if it was not.
        tasks: Its tasks in their order.
        by_key: The same by batch key, where keys matter.
    """

    __slots__ = ("by_key", "credit", "name", "since", "tasks", "turn", "weight")

    def __init__(self, name: bytes, turn: int) -> None:
        self.name = name
        self.weight = 1.0
        self.credit = 0.0
        self.turn = turn
        self.since = 0.0
        self.tasks: OrderedDict[T, None] = OrderedDict()
        self.by_key: dict[bytes, OrderedDict[T, None]] = {}

    def head(self, key: bytes | None) -> T:
        """Return its next task, or the next one of a batch key."""
        return next(iter(self.tasks if key is None else self.by_key[key]))


class Round:
    """The tenants that have tasks, in two parts: those that may still send some in this round, and those that wait.

    A tenant that comes joins the present round. Of those that are not known, as many as were in it at its begin may do
    so, or `BURST`: otherwise it would not end while new ones come, and those that wait for the next one would starve.

    Attributes:
        number: That of the present round.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin with the first round; there is no tenant."""
        self.number = 0
        self._places = BURST
        # Each with the number of the last round of which it has taken the quantum in advance.
        self._now: OrderedDict[bytes, int] = OrderedDict()
        self._later: OrderedDict[bytes, int] = OrderedDict()

    def __bool__(self) -> bool:
        """Tell whether there is a tenant."""
        return bool(self._now or self._later)

    def __iter__(self) -> Iterator[bytes]:
        """Yield the tenants, those of the present round first."""
        return chain(self._now, self._later)

    def first(self) -> bytes:
        """Return the tenant that is next; a new round begins when all wait for it. There must be one."""
        if not self._now:
            self._now, self._later = self._later, self._now
            self._places = max(BURST, len(self._now))
            self.number += 1
        return next(iter(self._now))

    def add(self, name: bytes) -> None:
        """Have a tenant send tasks in the present round, after the others."""
        self._now[name] = self.number

    def add_new(self, name: bytes) -> None:
        """Have a tenant that is new send tasks in the present round, or in the next one if too many have come."""
        self._places -= 1
        (self._now if self._places >= 0 else self._later)[name] = self.number

    def put_first(self, name: bytes) -> None:
        """Have a tenant send tasks before all others."""
        self.discard(name)
        self._now[name] = self.number
        self._now.move_to_end(name, last=False)

    def go_on(self, name: bytes) -> None:
        """Put a tenant that has sent a task behind the others of the round."""
        if name in self._now:
            self._now.move_to_end(name)

    def postpone(self, name: bytes) -> None:
        """Have a tenant wait for the next round."""
        self._later[name] = self._now.pop(name)

    def take_in_advance(self, name: bytes) -> bool:
        """Tell whether a tenant may take a quantum in advance: once in each round, and not in that in which it came."""
        may_take = self._now[name] < self.number
        self._now[name] = self.number
        return may_take

    def discard(self, name: bytes) -> None:
        """Remove a tenant, if it is there."""
        self._now.pop(name, None)
        self._later.pop(name, None)


class Turns(Generic[T]):
    """The tasks of one level of priority, each behind those of its tenant. Tenants take turns: deficit round robin.

    M. Shreedhar and G. Varghese, "Efficient Fair Queueing using Deficit Round Robin", SIGCOMM 1995. In each round a
    tenant gets a quantum of credit, in proportion to its weight, and sends tasks as long as its credit covers their
    costs; the rest is kept for its next turn. The quantum of the least weight is the cost of the largest task, so that
    each turn sends a task, and the next one is found in constant time. A task that costs more than a batch may is sent
    for that much, and the rest is owed: with a quantum as large no tenant would come to the end of its own.

    Unlike there, the tenants of a round send one task each, again and again, until their credit is used up. Otherwise
    all would wait while one with a large weight or small tasks uses up its quantum.

    A tenant without tasks misses its turns, and takes `BURST` of them at most when it comes back. It is forgotten after
    as many: one that is not known has missed all turns since the queue was empty.

    Args:
        is_keyed: Whether tasks of one batch key can be asked for.
        most_cost: What the tasks of a batch may cost together.

    Attributes:
        count: How many tasks wait.
    """

    def __init__(self, is_keyed: bool, most_cost: float = math.inf) -> None:
        self.count = 0
        self._most_cost = most_cost
        self._is_keyed = is_keyed
        self._tenants: dict[bytes, Tenant[T]] = {}
        self._absent: OrderedDict[bytes, Tenant[T]] = OrderedDict()  # those without tasks, as they have left
        self._starving: OrderedDict[bytes, Tenant[T]] = OrderedDict()  # those with tasks, as they were served
        self._round = Round()
        # Of the tenants that have tasks of a key. The turns that one takes there in advance, for places in batches that
        # others have begun, it misses in the round above; `BURST` of them at most.
        self._rounds: dict[bytes, Round] = {}
        self._weights: Counter[float] = Counter()
        self._lightest: Ranking[float, float] = Ranking()
        self._total_weight = 0.0
        self._largest = 1.0
        self._latest = 0.0

    @property
    def tenants(self) -> int:
        """How many tenants have tasks."""
        return len(self._tenants)

    @property
    def known(self) -> int:
        """How many tenants are not forgotten."""
        return len(self._tenants) + len(self._absent)

    @property
    def since(self) -> float:
        """Since when the tenant waits that was not served for longest. There must be a task."""
        return next(iter(self._starving.values())).since

    def waiting(self, name: bytes) -> int:
        """Count the tasks of a tenant."""
        tenant = self._tenants.get(name)
        return 0 if tenant is None else len(tenant.tasks)

    def entries(self) -> list[tuple[bytes, float, int]]:
        """List the tenants that have tasks: the name, the weight, and the number of tasks."""
        return [(tenant.name, tenant.weight, len(tenant.tasks)) for tenant in self._tenants.values()]

    def ahead(self, name: bytes, weight: float) -> int:
        """Estimate how many tasks go before the next one that a tenant adds.

        Args:
            name: The tenant.
            weight: Its weight.
        """
        tenant = self._tenants.get(name)
        own, others = 0, self._total_weight
        if tenant is not None:
            own, others = len(tenant.tasks), others - tenant.weight
        return min(self.count, own + round((own + 1) * others / weight))

    def has(self, key: bytes | None) -> bool:
        """Tell whether a task waits; with a batch key, whether one waits that has it."""
        return self.count > 0 if key is None else key in self._rounds

    def push(self, task: T) -> None:
        """Add a task behind those of its tenant."""
        self._add(task)

    def push_front(self, task: T) -> None:
        """Put a task back in front of all others, if its tenant is not ahead; that one gets back what it has paid."""
        tenant = self._add(task)
        tenant.tasks.move_to_end(task, last=False)
        tenant.credit += self._price(task)
        self._round.put_first(tenant.name)
        if self._is_keyed:
            key = task.marks.batch_key
            tenant.by_key[key].move_to_end(task, last=False)
            self._rounds[key].put_first(tenant.name)

    def remove(self, task: T) -> bool:
        """Remove a task; return whether it was there."""
        tenant = self._tenants.get(task.marks.tenant)
        if tenant is None or task not in tenant.tasks:
            return False
        self._take(tenant, task)
        return True

    def peek(self, key: bytes | None = None) -> T:
        """Return the next task, or the next one of a batch key. There must be one.

        Args:
            key: The batch key; None: the next task decides.
        """
        current = self._round if key is None else self._rounds[key]
        while True:
            name = current.first()
            tenant = self._tenants[name]
            head = tenant.head(key)
            cost = self._cost(head)
            while tenant.credit < cost and tenant.turn < self._round.number:
                self._take_turn(tenant)
            if key is not None and tenant.credit < cost and current.take_in_advance(name):
                self._take_turn(tenant)
                tenant.turn = min(tenant.turn, self._round.number + BURST)
            # One that is ahead begins no batch, not even with credit that is left: others would never do so.
            if tenant.credit >= cost and (key is not None or tenant.turn <= current.number):
                return head
            current.postpone(name)

    def first_of_others(self, key: bytes | None, held: Container[bytes]) -> Tenant[T] | None:
        """Return the tenant that was not served for longest, or the next one with a batch key; None if there is none.

        Args:
            key: The batch key; None: that of any task.
            held: Tenants that do not count.
        """
        names: Iterable[bytes] = self._starving if key is None else self._rounds.get(key, ())
        return next((self._tenants[name] for name in names if name not in held), None)

    def peek_starving(self) -> T:
        """Return the next task of the tenant that was not served for longest. There must be a task."""
        return next(iter(self._starving.values())).head(None)

    def take(self, task: T, now: float, pays: bool = True) -> None:
        """Remove a task that is sent.

        Args:
            task: The first of its tenant, or the first of its batch key.
            now: The time.
            pays: Whether its tenant pays for it.
        """
        tenant = self._tenants[task.marks.tenant]
        if pays:
            tenant.credit -= self._price(task)
        tenant.since = self._latest = max(self._latest, now)
        self._starving.move_to_end(tenant.name)
        self._round.go_on(tenant.name)
        if self._is_keyed:
            self._rounds[task.marks.batch_key].go_on(tenant.name)
        self._take(tenant, task)

    def _add(self, task: T) -> Tenant[T]:
        name, weight = task.marks.tenant, task.marks.weight
        self._largest = max(self._largest, self._cost(task))
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._enter(task)
        elif tenant.weight != weight:
            self._note_weight(tenant.weight, -1)
            self._note_weight(weight, 1)
            tenant.weight = weight
        tenant.tasks[task] = None
        self.count += 1
        if self._is_keyed:
            key = task.marks.batch_key
            tasks = tenant.by_key.get(key)
            if tasks is None:
                tasks = tenant.by_key[key] = OrderedDict()
                self._rounds.setdefault(key, Round()).add(name)
            tasks[task] = None
        return tenant

    def _enter(self, task: T) -> Tenant[T]:
        """Return a tenant that has its first task, in the present round."""
        name, weight = task.marks.tenant, task.marks.weight
        self._note_weight(weight, 1)
        earliest = max(-1, self._round.number - BURST)
        known = self._absent.pop(name, None)
        tenant: Tenant[T] = Tenant(name, earliest) if known is None else known
        tenant.turn = max(tenant.turn, earliest)
        tenant.weight = weight
        # So that tenants that have come later do not count as older.
        tenant.since = self._latest = max(self._latest, task.arrived_at)
        self._tenants[name] = self._starving[name] = tenant
        (self._round.add_new if known is None else self._round.add)(name)
        return tenant

    def _take(self, tenant: Tenant[T], task: T) -> None:
        del tenant.tasks[task]
        self.count -= 1
        if self._is_keyed:
            key = task.marks.batch_key
            tasks, current = tenant.by_key[key], self._rounds[key]
            del tasks[task]
            if not tasks:
                del tenant.by_key[key]
                current.discard(tenant.name)
                if not current:
                    del self._rounds[key]
        if not tenant.tasks:
            self._leave(tenant)

    def _leave(self, tenant: Tenant[T]) -> None:
        """Note that a tenant has no task any more; forget those for which that makes no difference."""
        name = tenant.name
        del self._tenants[name], self._starving[name]
        self._round.discard(name)
        self._note_weight(tenant.weight, -1)
        self._absent[name] = tenant
        if not self.count:
            self._absent.clear()
            self._round.restart()
            self._largest, self._total_weight = 1.0, 0.0
        while self._absent and self._round.number - next(iter(self._absent.values())).turn >= BURST:
            self._absent.popitem(last=False)

    def _note_weight(self, weight: float, tenants: int) -> None:
        self._weights[weight] += tenants
        self._total_weight += tenants * weight
        if not self._weights[weight]:
            del self._weights[weight]
            self._lightest.discard(weight)
        elif weight not in self._lightest:
            self._lightest.put(weight, weight)

    def _cost(self, task: T) -> float:
        """Return the credit that a tenant needs for a task."""
        return min(task.marks.cost or 1, self._most_cost)

    def _price(self, task: T) -> float:
        """Return what a tenant pays for a task: what it would get in `BURST` turns at most, as it may save no more."""
        return min(task.marks.cost or 1, BURST * self._most_cost)

    def _take_turn(self, tenant: Tenant[T]) -> None:
        tenant.credit += self._largest * (tenant.weight / self._lightest.least)
        tenant.turn += 1
