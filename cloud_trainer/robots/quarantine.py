"""Which robots behave so badly that they are not listened to for a while, or teach nothing. Pure."""

from __future__ import annotations

import math
from collections import deque

from hierarchy.evaluation import RECENT

# So many rejected messages within so many seconds, and more of them than good ones, put a robot into quarantine. A
# robot of another version, or with broken memory, sends nothing else; a stray bit on the way once a day is no reason.
REJECTIONS = 20
WITHIN_SECONDS = 60.0
# The first quarantine, and the longest: each one is twice as long as the one before.
FIRST_SECONDS, LONGEST_SECONDS = 60.0, 3600.0

# A network that was shown so many images, and is no better than a guess, is not at its beginning any more.
DOUBT_IMAGES = 2000
# By how many standard deviations a share must be above that of guessing not to be taken for it.
DOUBT_DEVIATIONS = 2.0


def doubt(*, images: int, recent: float | None, classes: int) -> str:
    """Return why what a robot sends seems to teach nothing, for people; empty where it does, or it is too early to say.

    Noise under labels of valid form can be told by nothing else. images: learned from. recent: the share of the last
    thousand that was named right before it was learned from.
    """
    if recent is None or images < DOUBT_IMAGES or classes < 2:
        return ""
    guess = 1 / classes
    if recent > guess + DOUBT_DEVIATIONS * math.sqrt(guess * (1 - guess) / RECENT):
        return ""
    return (
        f"what it sends seems to teach nothing: after {images:,} images {100 * recent:.0f} % are named right, and "
        f"guessing gets {100 * guess:.0f} %; look at its camera, its labels, and who it is"
    )


class Quarantine:
    """Keeps one robot's record."""

    def __init__(self) -> None:
        self.rejected = 0
        self._lately: deque[tuple[float, bool]] = deque(maxlen=1000)  # when, and whether it was good
        self._until = 0.0
        self._length = FIRST_SECONDS
        self._reason = ""

    def ignore(self) -> None:
        """Note a message that came in quarantine."""
        self.rejected += 1

    def good(self, now: float) -> None:
        """Note a message that was taken."""
        self._lately.append((now, True))

    def bad(self, now: float, reason: str, *, grave: bool = False) -> bool:
        """Note a message that was rejected. Return whether that put the robot into quarantine.

        grave: what no accident explains, or what does harm; once is enough.
        """
        self.rejected += 1
        self._lately.append((now, False))
        recent = [good for when, good in self._lately if when > now - WITHIN_SECONDS]
        rejected = recent.count(False)
        if self.reason(now) or not (grave or (rejected >= REJECTIONS and rejected > len(recent) / 2)):
            return False
        self._until = now + self._length
        self._reason = f"not listened to for {self._length:.0f} s: {reason}"
        self._length = min(2 * self._length, LONGEST_SECONDS)
        self._lately.clear()
        return True

    def reason(self, now: float) -> str:
        """Return why the robot is not listened to now; empty where it is."""
        return self._reason if now < self._until else ""
