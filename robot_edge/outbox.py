"""Messages that the cloud has not receipted yet, and which of them to send now. Pure: time is an argument."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

# A message without a receipt for this long is sent again. Far above a trainer's queue of one window.
RESEND_AFTER_SECONDS = 30.0


@dataclass
class _Pending:
    payload: bytes
    samples: int
    sent_at: float | None = None


class Outbox:
    """Holds each message until its receipt comes.

    window: how many messages may be on the way at once; it keeps the trainer's queue short and the memory of the
    broker, which keeps at most 1,000 messages for a client, out of play.
    limit: bytes after which it is full; a replay then waits.
    """

    def __init__(self, window: int, limit: int) -> None:
        self.window = window
        self.limit = limit
        self.bytes_held = 0
        self.samples_held = 0
        self._pending: OrderedDict[int, _Pending] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pending)

    @property
    def full(self) -> bool:
        """Whether it holds its limit; one more put is still taken."""
        return self.bytes_held >= self.limit

    def put(self, sequence: int, payload: bytes, samples: int) -> None:
        """Keep a message until its receipt. samples: how many training samples would be lost with it."""
        self._pending[sequence] = _Pending(payload, samples)
        self.bytes_held += len(payload)
        self.samples_held += samples

    def due(self, now: float) -> list[tuple[int, bytes]]:
        """Return the messages to send now, oldest first: new ones that the window admits, old ones overdue."""
        window = list(self._pending.items())[: self.window]
        return [
            (sequence, pending.payload)
            for sequence, pending in window
            if pending.sent_at is None or now - pending.sent_at > RESEND_AFTER_SECONDS
        ]

    def sent(self, sequence: int, now: float) -> None:
        """Note that a message went out."""
        self._pending[sequence].sent_at = now

    def receipted(self, sequence: int) -> int | None:
        """Let go of a message. Return its size in bytes, or None where it was let go of before."""
        pending = self._pending.pop(sequence, None)
        if pending is None:
            return None
        self.bytes_held -= len(pending.payload)
        self.samples_held -= pending.samples
        return len(pending.payload)

    def send_all_again(self) -> None:
        """Forget what was sent: the trainer that got it is gone."""
        for pending in self._pending.values():
            pending.sent_at = None
