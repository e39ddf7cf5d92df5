"""What a recording is taught while it is made: which of its frames are samples, what they show, what was taken back."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from broker.link.mailbox import Mailbox
from broker.program.plain_text import counted
from broker.wire.messages import Change, ClassEdit, Command, CommandResult
from robot_edge.sources.frames import Frame, PacedSource, age, relabelled
from robot_edge.teaching.commands import Commands
from robot_edge.teaching.lessons import Teaching

COMMANDS_WAITING = 100
# A recording is of no robot's run, whose number stands in a class edit.
NO_BOOT = "0" * 16


class RecordedLessons:
    """Labels the frames that a live robot, taught the same, would have learned from, and no others.

    commands: where what people ask for is put, by any thread. The rest is for one thread.
    """

    def __init__(
        self,
        source: PacedSource,
        write: Callable[[ClassEdit], None],
        *,
        trusts_source: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """write: is given each class edit, which applies to all frames before it.

        trusts_source: frames that come with a label are samples, too. clock: seconds, monotonic.
        """
        self.commands: Mailbox[Command] = Mailbox(COMMANDS_WAITING)
        self._write = write
        self._clock = clock
        self._teaching = Teaching(clock, trusts_source=trusts_source)
        self._kept: Counter[tuple[str, int]] = Counter()  # samples by class and lesson
        self._edits = 0
        self._lesson = 0  # the last one that was begun
        self._since = float("-inf")  # when that was
        self._obeying = Commands(
            teaching=self._teaching,
            source=source,
            classes=lambda: tuple(dict.fromkeys(name for name, _ in self._kept)),
            has_other=lambda name, session: any(one == name and other != session for one, other in self._kept),
            edit=self._edit,
            edits=lambda: self._edits,
        )

    def obey(self) -> list[CommandResult]:
        """Do what people asked for since the last time. Return what there is to say about it."""
        results: list[CommandResult] = []
        while command := self.commands.take(0.0):
            results += self._obeying.obey(command)
        lesson = self._teaching.open
        if lesson and lesson.number != self._lesson:
            self._lesson, self._since = lesson.number, self._clock()
        return results + self._obeying.ended()

    def see(self, frame: Frame) -> Frame:
        """Return a frame with its label and lesson where it is a sample, else without."""
        # What was in the camera's buffer when somebody said what it shows from then on, may show something else.
        waited = self._teaching.open is not None and self._clock() - age(frame) < self._since
        sample = None if waited or not self._teaching.see(frame) else self._teaching.next_frame()
        if sample is None or sample.label is None:
            return replace(frame, label=None, session=0)
        self._kept[sample.label, sample.session] += 1
        return sample

    @property
    def line(self) -> str:
        """What there is to show of it while it is recorded."""
        lesson = self._teaching.open
        taught = f"TEACHING {lesson.name}: {counted(lesson.frames, 'frame')}, " if lesson else ""
        return f"{taught}{counted(self._kept.total(), 'sample')}"

    def _edit(self, change: Change, name: str, to: str, session: int, *, everywhere: bool = False) -> ClassEdit:
        self._edits += 1
        edit = ClassEdit(
            boot=NO_BOOT,
            sequence=self._edits,
            number=self._edits,
            change=change,
            name=name,
            to=to,
            session=session,
            everywhere=everywhere,
        )
        self._teaching.apply(edit)
        kept, self._kept = self._kept, Counter()
        for (label, lesson), count in kept.items():
            if after := relabelled(label, lesson, edit):
                self._kept[after, lesson] += count
        self._write(edit)
        return edit
