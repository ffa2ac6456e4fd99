"""The shared memory itself: one anonymous file that every process of a flow maps."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import sys
from collections.abc import Callable
from typing import Any

PAGE = mmap.PAGESIZE

MEMORY_PREFIX = "aqueduct-"
"""Prefix of the name of shared memory in the system's tools."""


if sys.platform == "linux":

    def create_memory(name: str, size: int) -> int:
        """Create shared memory without a name that could be left behind.

        Linux: a sealed, sparse memfd, which the size limit of /dev/shm does not touch (memfd_create(2), fcntl(2)).
        Elsewhere: a POSIX shared memory object that is unlinked at once (shm_open(3)).

        Args:
            name: Shown by the system's tools.
            size: Bytes of address space; memory is only used where it is written.

        Returns:
            A descriptor that a child process inherits only if it is passed explicitly.
        """
        fd = os.memfd_create(MEMORY_PREFIX + name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            # Sealed, because shrinking it under a live mapping would kill the process that reads there (SIGBUS).
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        except OSError:
            os.close(fd)
            raise
        return fd

else:
    import secrets
    from _posixshmem import shm_open, shm_unlink

    def create_memory(name: str, size: int) -> int:
        """Create shared memory without a name that could be left behind; see the variant for Linux."""
        path = f"/{MEMORY_PREFIX}{secrets.token_hex(8)}"  # macOS allows no more than 31 characters
        fd: int = shm_open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode=0o600)
        shm_unlink(path)
        os.ftruncate(fd, size)
        return fd


class Lease(ctypes.Array):  # type: ignore[type-arg]  # ctypes.Array takes its parameter only in stubs
    """Exports a block to views, and lives as long as any view derived from it.

    numpy and `memoryview` both keep a reference to the object that exported the memory, through any chain of slices,
    casts and reshapes; so the end of this object is the end of the last view. The release of a memoryview proves
    nothing: arrays made from it live on.

    Attributes:
        mapping: Keeps the memory mapped while the lease lives.
        offset: Start of the block.
        size: Its length in bytes; the array type itself is longer, views are cut to this.
        shared: Whether user code may write to the block in place.
    """

    _type_ = ctypes.c_char
    _length_ = 1

    mapping: Mapping
    offset: int
    size: int
    shared: bool

    def __del__(self) -> None:
        # May run in any thread and between any two instructions: only atomic operations.
        mapping = self.mapping
        mapping.dropped.append(self.offset)
        if mapping.wake is not None:
            mapping.wake()


# An array type costs 20 us and an instance 1 us, so there is one type for each power of two.
_lease_types: dict[int, type[Lease]] = {}


def _lease_type(size: int) -> type[Lease]:
    bits = size.bit_length()
    if bits not in _lease_types:
        _lease_types[bits] = type(f"Lease{bits}", (Lease,), {"_type_": ctypes.c_char, "_length_": 1 << bits})
    return _lease_types[bits]


def lease_of(buffer: Any) -> Lease | None:
    """Return the lease of a memoryview or an array, through any chain of views; None if there is none."""
    owner = buffer
    while not isinstance(owner, Lease):
        if isinstance(owner, memoryview):
            owner = owner.obj
        elif (numpy := sys.modules.get("numpy")) is not None and isinstance(owner, numpy.ndarray):
            owner = owner.base
        else:
            return None
    return owner


def is_shared(buffer: Any) -> bool:
    """Tell whether a buffer is a view of a block, of any flow, that may be written in place."""
    lease = lease_of(buffer)
    return lease is not None and lease.shared


class Mapping:
    """The memory as one process maps it.

    It is mapped twice: read-only for all that user code gets, so that writing to it is an error in numpy and at worst a
    crash of this process alone; and writable for what this process fills.

    Args:
        fd: From `create_memory`; it stays open.
        size: Its size in bytes.

    Attributes:
        dropped: Offsets of blocks whose leases have ended since the last `Arena.collect`.
        wake: Called when a lease ends, in any thread; None while no caller waits for memory.
    """

    def __init__(self, fd: int, size: int) -> None:
        self.size = size
        self.dropped: list[int] = []
        self.wake: Callable[[], object] | None = None
        self._writable = mmap.mmap(fd, size)
        self._readonly = mmap.mmap(fd, size, prot=mmap.PROT_READ)
        self.writable = memoryview(self._writable)
        self._writable_address = address_of(self._writable)
        self._readonly_address = address_of(self._readonly)

    def lend(self, offset: int, size: int, shared: bool) -> Lease:
        """Make a lease on a block.

        Args:
            offset: Start of the block.
            size: Its length in bytes.
            shared: Whether it may be written in place.
        """
        base = self._writable_address if shared else self._readonly_address
        lease = _lease_type(size).from_address(base + offset)
        lease.mapping = self
        lease.offset = offset
        lease.size = size
        lease.shared = shared
        return lease

    def view(self, lease: Lease, start: int, length: int) -> memoryview:
        """Return a view of a part of a lease; read-only unless the lease is shared."""
        # A view of the lease itself and not of a view: a memoryview that another one exports from crashes the
        # interpreter when the garbage collector finds both (python/cpython#77894, up to 3.12.3).
        view = memoryview(lease).cast("B")[start : start + length]
        return view if lease.shared else view.toreadonly()

    def position(self, lease: Lease, address: int) -> int:
        """Return the position in the block of an address inside a lease."""
        return address - ctypes.addressof(lease)

    def release_pages(self, offset: int, size: int) -> None:
        """Return the whole pages of a free range to the system, where that is supported.

        Their content is lost. Other systems (macOS, gVisor) keep the pages; nothing else changes.
        """
        start = -(-offset // PAGE) * PAGE
        end = (offset + size) // PAGE * PAGE
        advice = getattr(mmap, "MADV_REMOVE", None)
        if advice is None or end <= start:
            return
        try:
            self._writable.madvise(advice, start, end - start)
        except OSError:
            pass


class _PyBuffer(ctypes.Structure):
    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


def address_of(buffer: object) -> int:
    """Return the address of the memory of an object with the buffer protocol.

    Uses the C API because ctypes refuses ``from_buffer`` on memory that is read-only.

    Raises:
        BufferError: The object exports no contiguous buffer.
    """
    exported = _PyBuffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(buffer), ctypes.byref(exported), 0)
    address = exported.buf or 0
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(exported))
    return address
