"""Every error Reflexarc raises on purpose, by whose turn it is, with the exit status of a program that it ends.

    ReflexarcError
    ├── ConfigError          2   yours: a setting cannot work; the message says which one, and what would do
    │   ├── CutError             the network cannot be cut there
    │   │   └── CrossingError        it can, but not for so many places or channels to cross
    │   ├── SourceError          the frames cannot be read from there
    │   ├── PayloadTooLarge      one sample makes a message that no broker would take
    │   ├── AccessDenied         the broker lets these credentials in, but not to our topics
    │   ├── NameTaken            another robot, or trainer, with this name is online
    │   └── NotOpen              a Robot or Trainer is used before it is opened, or after its end
    ├── PeerError            4   the other end's: it is absent, refuses, or sends nonsense
    │   ├── MalformedMessage     bytes that are no message, or an impossible one
    │   │   ├── SealedPayload        a sealed one, and this end has no key
    │   │   └── Unopened             a sealed one that is refused, or one that should be sealed and is not
    │   ├── BrokerUnavailable    no broker could be reached
    │   ├── DownloadFailed       what is to be downloaded cannot be reached
    │   ├── NotEntered           a robot sends what belongs to no state of it that this end knows
    │   └── NoAnswer             the other end is there, and does not answer
    ├── MachineError         1   this machine's: a right, a port or a handle is missing
    │   ├── StorageError         the disk takes no more, or the database is away
    │   ├── Superseded           another process does this one's work by now
    │   ├── OutOfMemory          the memory takes no more
    │   └── Diverged             training came to values that are none
    ├── NothingDone          3   a run came to its end and learned, or tested, nothing
    └── TooMuchLeaks         5   an audit came to its end, and what leaks is more than the line that was chosen

Anything else is a fault of the program: it ends with a traceback and status 70. Ctrl-C and SIGTERM end it with 130.
Another start cannot mend 2, 3 and 5; it may mend 1 and 4. At the edge of a loop catch these, count them and go on.
"""

from __future__ import annotations

from typing import Literal

EXIT_INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended
EXIT_MACHINE, EXIT_SETTING = 1, 2
EXIT_BUG = 70  # EX_SOFTWARE of sysexits.h


class ReflexarcError(Exception):
    """Base of all errors that Reflexarc raises on purpose."""


class ConfigError(ReflexarcError):
    """A setting is wrong; the message names it and says what would do."""


class CutError(ConfigError):
    """The network cannot be cut there; the message lists where it can."""


class CrossingError(CutError):
    """Places or channels that are to cross do not fit the cut; the message says which would."""


class SourceError(ConfigError):
    """Frames cannot be read from this source."""


class PayloadTooLarge(ConfigError):
    """A message of ours would not fit the broker's bound; the message says which bits and bottleneck would."""


class AccessDenied(ConfigError):
    """The broker's access rules forbid these credentials a topic that this end cannot do without."""


class NameTaken(ConfigError):
    """Another robot, or trainer, with the same name is online."""


class NotOpen(ConfigError, RuntimeError):
    """A Robot or Trainer is used before it is opened, or after its end."""


class PeerError(ReflexarcError):
    """The other end, or the way to it, fails. It may be there later."""


class MalformedMessage(PeerError):
    """The peer sent bytes that are no message, or one that describes something impossible."""


class SealedPayload(MalformedMessage):
    """A payload is sealed, and this end was given no key."""


class Unopened(MalformedMessage):
    """A payload is refused: it is not sealed, or does not open, or counts no more. ``why`` says which."""

    def __init__(self, why: Literal["unsealed", "foreign", "replayed", "stale", "own"], text: str) -> None:
        super().__init__(text)
        self.why = why


class BrokerUnavailable(PeerError):
    """No broker could be reached."""


class DownloadFailed(PeerError):
    """What is to be downloaded cannot be reached. Says where to get it."""


class NotEntered(PeerError):
    """A robot's message belongs to a log that no state of the robot has entered: without a receipt it comes again."""


class NoAnswer(PeerError):
    """The other end is online and answers nothing. Says what is known of it."""


class MachineError(ReflexarcError):
    """The machine does not give what settings that may be right ask for: a right, a port, a handle, a broker."""


class StorageError(MachineError):
    """The disk is full or fails, or the database is away. What was to be written is not on it; what was there is."""


class Superseded(MachineError):
    """Another process trains on a log by now. This one ends its work on it; what it has not written is in the log."""


class OutOfMemory(MachineError):
    """The memory of the machine, or of its accelerator, is used up."""


class Diverged(MachineError):
    """Training came to values that are not finite, or larger than a message can carry."""


class NothingDone(ReflexarcError):
    """A run came to its end without what it was for: it learned nothing, or tested nothing. Says why."""


class TooMuchLeaks(ReflexarcError):
    """More of a run's frames can be read off what it sends than the user allows. Says what, and by whom."""


def exit_status(error: BaseException) -> int:
    """Return the exit status of a program that ends with that error."""
    turns: tuple[tuple[type[BaseException], int], ...] = (
        *(
            (MachineError, EXIT_MACHINE),
            (ConfigError, EXIT_SETTING),
            (NothingDone, 3),
            (PeerError, 4),
            (TooMuchLeaks, 5),
        ),
        (KeyboardInterrupt, EXIT_INTERRUPTED),
    )
    return next((status for kind, status in turns if isinstance(error, kind)), EXIT_BUG)
