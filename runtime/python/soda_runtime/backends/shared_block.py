"""Device memory that engines use one after another: activations, and scratch for what is copied."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from .cuda import Cuda, DeviceMemory


class SharedBlock:
    """One block for whatever uses memory one after another in the stream: as large as the largest user needs.

    Users are told its address when they join and whenever it moves, which it does only while something is bound.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._memory: DeviceMemory | None = None
        self._users: list[weakref.WeakMethod[Callable[[int, int], None]]] = []
        self.moves = 0

    def join(self, nbytes: int, tell: Callable[[int, int], None]) -> None:
        """Reserve `nbytes`. tell, a method of the user, is called with (address, nbytes) now and after each move."""
        with self._cuda.lock:
            if self._memory is None or nbytes > self._memory.nbytes:
                self.free()
                self._memory = self._cuda.allocate(max(256, nbytes))
                self.moves += 1
                self._users = [user for user in self._users if user() is not None]
                for user in self._users:
                    told = user()
                    if told is not None:
                        told(self._memory.address, self._memory.nbytes)
            tell(self._memory.address, self._memory.nbytes)
            self._users.append(weakref.WeakMethod(tell))

    @property
    def nbytes(self) -> int:
        """Size of the block."""
        return self._memory.nbytes if self._memory is not None else 0

    def free(self) -> None:
        """Free the block; nobody may use it any more."""
        if self._memory is not None:
            self._memory.free()
        self._memory = None
