"""Every error Reflexarc raises on purpose.

    ReflexarcError
    ├── ConfigError            your settings: the message says which one, and what would do
    │   ├── CutError           the network cannot be cut there
    │   └── SourceError        the frames cannot be read from there
    ├── WireError              what crosses the wire
    │   ├── MalformedMessage   the peer's fault: bytes that are no message, or an impossible one
    │   └── PayloadTooLarge    ours: a message that would not fit the broker
    ├── LinkError              the broker, or the way to it
    │   ├── BrokerUnavailable  no broker could be started or reached
    │   ├── AccessDenied       the broker lets us in, but not to our topics
    │   ├── NameTaken          another robot, or trainer, with this name is online
    │   └── NoAnswer           the other end is there, and does not answer
    ├── StorageError           the disk takes no more
    └── NothingDone            a run came to its end and learned, or tested, nothing

Catch these at the edge of a loop, count them and go on; anything else is a bug and may crash.
"""


class ReflexarcError(Exception):
    """Base of all errors that Reflexarc raises on purpose."""


class ConfigError(ReflexarcError):
    """A setting is wrong; the message names it and says what would do."""


class CutError(ConfigError):
    """The network cannot be cut there; the message lists where it can."""


class SourceError(ConfigError):
    """Frames cannot be read from this source."""


class WireError(ReflexarcError):
    """Something is wrong with what crosses the wire."""


class MalformedMessage(WireError):
    """The peer sent bytes that are no message, or one that describes something impossible."""


class PayloadTooLarge(WireError):
    """A message of ours would not fit the broker's bound."""


class LinkError(ReflexarcError):
    """The broker, or the way to it, fails."""


class BrokerUnavailable(LinkError):
    """No broker could be started or reached."""


class AccessDenied(LinkError):
    """The broker's access rules forbid these credentials a topic that this end cannot do without."""


class NameTaken(LinkError):
    """Another robot, or trainer, with the same name is online."""


class NoAnswer(LinkError):
    """The other end is online and answers nothing. Says what is known of it."""


class StorageError(ReflexarcError):
    """The disk is full or fails. What was to be written is not on it; what was there before still is."""


class NothingDone(ReflexarcError):
    """A run came to its end without what it was for: it learned nothing, or tested nothing. Says why."""
