"""Tracing a network in one thread, while others compute with theirs.

torch.fx follows a forward pass by replacing `nn.Module.__call__` and `__getattr__`, which all threads share. So a
forward pass in another thread would become part of the trace, or fail because its modules do not belong there.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.fx import _symbolic_trace

# Two traces at once would put back each other's methods. Nothing but tracing waits here.
_one_at_a_time = threading.Lock()


class _PatcherOfOneThread(_symbolic_trace._Patcher):
    """torch.fx's own, but other threads call the method that was there before, and do not change the trace."""

    def patch_method(self, cls: type, name: str, new_fn: Callable[..., Any], deduplicate: bool = True) -> None:
        before, tracing = getattr(cls, name), threading.get_ident()

        @functools.wraps(new_fn)
        def method(*given: Any, **named: Any) -> Any:
            return (new_fn if threading.get_ident() == tracing else before)(*given, **named)

        super().patch_method(cls, name, method, deduplicate)


@contextmanager
def traced_apart() -> Iterator[None]:
    """Keep what a torch.fx tracer replaces inside from all other threads; they go on without waiting.

    Threads that come here at the same time take turns.
    """
    with _one_at_a_time:
        before = _symbolic_trace._Patcher
        _symbolic_trace._Patcher = _PatcherOfOneThread  # type: ignore[misc]
        try:
            yield
        finally:
            _symbolic_trace._Patcher = before  # type: ignore[misc]
