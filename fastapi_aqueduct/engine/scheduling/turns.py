"""The turns of tenants: which of the tasks that wait at one level of priority goes next. Has no clock."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Generic, Protocol, TypeVar

from ..marks import Marks

BURST = 8
"""Turns that a tenant may save up, so that one which sends less than its share does not wait for each of its tasks."""


class Owned(Protocol):
    """What can wait for the turn of its tenant. It is hashed by its identity.

    Attributes:
        arrived_at: When it arrived.
        marks: Its tenant, the weight of that one, its batch key, and what it costs; 0 counts as 1.
    """

    arrived_at: float
    marks: Marks


T = TypeVar("T", bound=Owned)


class Tenant(Generic[T]):
    """A tenant that has tasks, or had some a few turns ago.

    Attributes:
        name: Its canonical name.
        weight: The share that it gets, in proportion to the weights of others.
        credit: The cost of the tasks that it may send before its next turn; below 0 if it was served without a turn.
        turn: The number of its turn.
        since: When it was served last; when its first task arrived if it was not.
        tasks: Its tasks in their order.
        by_key: The same by batch key, where keys matter.
    """

    __slots__ = ("by_key", "credit", "name", "since", "tasks", "turn", "weight")

    def __init__(self, name: bytes, weight: float, credit: float, turn: int) -> None:
        self.name = name
        self.weight = weight
        self.credit = credit
        self.turn = turn
        self.since = 0.0
        self.tasks: OrderedDict[T, None] = OrderedDict()
        self.by_key: dict[bytes, OrderedDict[T, None]] = {}

    def head(self, key: bytes | None) -> T:
        """Return its next task, or the next one of a batch key."""
        return next(iter(self.tasks if key is None else self.by_key[key]))


class Turns(Generic[T]):
    """The tasks of one level of priority, each behind those of its tenant. Tenants take turns: deficit round robin.

    M. Shreedhar and G. Varghese, "Efficient Fair Queueing using Deficit Round Robin", SIGCOMM 1995. In each turn a
    tenant gets a quantum of credit, in proportion to its weight, and sends tasks as long as its credit covers their
    costs; the rest is kept for its next turn. The quantum of the least weight is the cost of the largest task, so that
    each turn sends a task, and the next one is found in constant time (with few different weights).

    A tenant without tasks misses its turns, and has the credit of `BURST` of them at most when it comes back. It is
    forgotten after `BURST` turns: one that is not known has missed all turns since the queue was empty.

    Args:
        is_keyed: Whether tasks of one batch key can be asked for.

    Attributes:
        count: How many tasks wait.
    """

    def __init__(self, is_keyed: bool) -> None:
        self.count = 0
        self._is_keyed = is_keyed
        self._tenants: dict[bytes, Tenant[T]] = {}
        self._absent: OrderedDict[bytes, Tenant[T]] = OrderedDict()  # those without tasks, as they have left
        self._starving: OrderedDict[bytes, Tenant[T]] = OrderedDict()  # those with tasks, as they were served
        # The order of the turns, with the number of the turn for which each is there: it may have had it elsewhere.
        self._order: OrderedDict[bytes, int] = OrderedDict()
        self._orders: dict[bytes, OrderedDict[bytes, int]] = {}
        self._weights: Counter[float] = Counter()
        self._total_weight = 0.0
        self._largest = 1
        self._turn = 0
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
        return self.count > 0 if key is None else key in self._orders

    def push(self, task: T) -> None:
        """Add a task behind those of its tenant."""
        self._add(task)

    def push_front(self, task: T) -> None:
        """Put a task back in front of those of its tenant, which gets back what it has paid for it."""
        tenant = self._add(task)
        tenant.tasks.move_to_end(task, last=False)
        tenant.credit += _cost(task)
        orders = [self._order]
        if self._is_keyed:
            key = task.marks.batch_key
            tenant.by_key[key].move_to_end(task, last=False)
            orders.append(self._orders[key])
        for order in orders:
            order.move_to_end(tenant.name, last=False)

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
        order = self._order if key is None else self._orders[key]
        while True:
            name, turn = next(iter(order.items()))
            tenant = self._tenants[name]
            if tenant.turn == turn:
                head = tenant.head(key)
                if tenant.credit >= _cost(head):
                    return head
                tenant.credit += self._quantum(tenant.weight)
                tenant.turn += 1
                self._turn = max(self._turn, tenant.turn)
            order[name] = tenant.turn
            order.move_to_end(name)

    def peek_starving(self) -> T:
        """Return the next task of the tenant that was not served for longest. There must be a task."""
        return next(iter(self._starving.values())).head(None)

    def take(self, task: T, now: float) -> None:
        """Remove a task that is sent: its tenant pays for it.

        Args:
            task: The first of its tenant, or the first of its batch key.
            now: The time.
        """
        tenant = self._tenants[task.marks.tenant]
        tenant.credit -= _cost(task)
        tenant.since = self._latest = max(self._latest, now)
        self._starving.move_to_end(tenant.name)
        self._take(tenant, task)

    def _add(self, task: T) -> Tenant[T]:
        name, weight = task.marks.tenant, task.marks.weight
        self._largest = max(self._largest, _cost(task))
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
                self._orders.setdefault(key, OrderedDict())[name] = tenant.turn
            tasks[task] = None
        return tenant

    def _enter(self, task: T) -> Tenant[T]:
        """Return a tenant that has its first task; its turn is the last one."""
        name, weight = task.marks.tenant, task.marks.weight
        self._note_weight(weight, 1)
        quantum = self._quantum(weight)
        tenant = self._absent.pop(name, None)
        if tenant is None:
            tenant = Tenant(name, weight, quantum * min(BURST, 1 + self._turn), self._turn)
        else:
            missed = self._turn - tenant.turn
            tenant.credit = max(tenant.credit, min(tenant.credit + missed * quantum, BURST * quantum))
            tenant.turn += missed
            tenant.weight = weight
        # So that tenants that have come later do not count as older.
        tenant.since = self._latest = max(self._latest, task.arrived_at)
        self._tenants[name] = self._starving[name] = tenant
        self._order[name] = tenant.turn
        return tenant

    def _take(self, tenant: Tenant[T], task: T) -> None:
        del tenant.tasks[task]
        self.count -= 1
        if self._is_keyed:
            key = task.marks.batch_key
            tasks = tenant.by_key[key]
            del tasks[task]
            if not tasks:
                del tenant.by_key[key], self._orders[key][tenant.name]
                if not self._orders[key]:
                    del self._orders[key]
        if not tenant.tasks:
            self._leave(tenant)

    def _leave(self, tenant: Tenant[T]) -> None:
        """Note that a tenant has no task any more; forget those for which that makes no difference."""
        name = tenant.name
        del self._tenants[name], self._starving[name], self._order[name]
        self._note_weight(tenant.weight, -1)
        self._absent[name] = tenant
        if not self.count:
            self._absent.clear()
            self._largest, self._turn, self._total_weight = 1, 0, 0.0
        while self._absent and self._turn - next(iter(self._absent.values())).turn >= BURST:
            self._absent.popitem(last=False)

    def _note_weight(self, weight: float, tenants: int) -> None:
        self._weights[weight] += tenants
        self._total_weight += tenants * weight
        if not self._weights[weight]:
            del self._weights[weight]

    def _quantum(self, weight: float) -> float:
        return self._largest * (weight / min(self._weights))


def _cost(task: Owned) -> int:
    return task.marks.cost or 1
