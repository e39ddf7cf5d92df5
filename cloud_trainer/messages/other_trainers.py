"""Other trainers at the same broker: one of our name is an error, one of another name a warning. Knows no broker."""

from __future__ import annotations

import logging
import math

from broker.errors import NameTaken
from broker.wire.messages import HEARTBEAT_SECONDS, TrainerState

# A retained state of our name may be of a trainer that died together with its broker: then no heartbeat follows it.
TAKEOVER_SECONDS = 2.5 * HEARTBEAT_SECONDS

log = logging.getLogger("cloud-trainer")


class OtherTrainers:
    """What they said so far. Of two trainers with one name the one that started first stays.

    Clocks may be wrong, as before the first NTP: who was there before we said a word was first, whatever it says.
    """

    def __init__(self, name: str, state: TrainerState) -> None:
        self._name = name
        self._age = (state.started, state.boot)
        self._free_at = -math.inf
        self._has_spoken = False
        self._first = ""  # boot of one that was there before we spoke, until we do
        self._known: dict[str, str] = {}  # boot by name, of those that the log names

    def name_is_free(self, now: float) -> bool:
        """Whether we may speak under our name; if not, one that seems to have it has time for a sign of life."""
        return now >= self._free_at

    def hear(self, name: str, other: TrainerState, now: float, *, retained: bool) -> bool:
        """Take in a trainer's state; return whether it took the place of ours at the broker.

        Raises NameTaken where a trainer that started before us has our name.
        """
        if other.boot == self._age[1]:
            self._has_spoken, self._first = True, ""
            return False
        if name != self._name:
            if not retained:  # else it may be gone
                self._note(name, other)
            return False
        if retained and not self._has_spoken:
            self._first = other.boot
        if not other.online:
            self._free_at = -math.inf
        elif other.boot != self._first and (other.started, other.boot) > self._age:
            if not retained and self._known.get(name) != other.boot:
                self._known[name] = other.boot
                log.warning("another trainer named %r has started: it ends, as this one was first", name)
        elif retained:
            self._free_at = now + TAKEOVER_SECONDS
        else:
            self._free_at = math.inf
            raise NameTaken(
                f"another trainer named {name!r} is online (boot {other.boot}) and trains for every robot at this "
                "broker: end it first, or leave the robots to it"
            )
        return not retained

    def _note(self, name: str, other: TrainerState) -> None:
        if not other.online:
            if self._known.pop(name, ""):
                log.info("the other trainer, %r, has gone", name)
        elif self._known.get(name) != other.boot:
            self._known[name] = other.boot
            log.warning(
                "another trainer, %r, is at this broker too: both train for every robot, and a robot lets go of "
                "what either has stored; unless you want two, end one of them",
                name,
            )
