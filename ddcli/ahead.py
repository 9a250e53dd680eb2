"""What is needed next, made while a device computes what is needed now."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Key = TypeVar("Key")
Made = TypeVar("Made")


class Ahead(Generic[Key, Made]):
    """Makes things one by one, each by a key; the next one meanwhile, in a thread of its own.

    make: a pure function of its key, so what was made in vain is no loss.
    """

    def __init__(self, make: Callable[[Key], Made]) -> None:
        self.make = make
        self._thread = ThreadPoolExecutor(1, "ahead")
        self._next: tuple[Key, Future[Made]] | None = None

    def take(self, key: Key, then: Key | None = None) -> Made:
        """What belongs to a key; then what belongs to `then` is begun, if that is told. Raises as `make`."""
        found = None
        if self._next is not None and self._next[0] == key:
            found = self._next[1]
        self.drop()
        made = self.make(key) if found is None else found.result()
        if then is not None:
            self._next = then, self._thread.submit(self.make, then)
        return made

    def drop(self) -> None:
        """Wait until nothing is being made, and forget what was."""
        if self._next is not None:
            self._next[1].exception()
            self._next = None
