"""What a robot's own class edits say of an exit that was made before the fleet knew of them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from broker.wire.messages import ClassEdit

# What a class is called that was forgotten here.
GONE = ""


@dataclass(frozen=True)
class Change:
    """What a class of the fleet is called here, GONE where it was forgotten, since which version of its exit."""

    to: str
    since: int


@dataclass(frozen=True, kw_only=True)
class ClassChanges:
    """Classes of the fleet that are called otherwise on this robot, by the fleet's names.

    edits: of the robot's run that are in here, by number.
    """

    now: Mapping[str, Change] = field(default_factory=dict)
    edits: int = 0

    def after(self, edit: ClassEdit, version: int) -> ClassChanges:
        """Return the changes with an edit; one that is in here already changes nothing. version: that is here now."""
        if edit.number <= self.edits:
            return self
        changed = dict(self.now)
        if edit.name:
            change = Change(edit.to if edit.change == "rename" else GONE, version)
            changed = {name: change if one.to == edit.name else one for name, one in changed.items()}
            changed.setdefault(edit.name, change)  # else the class of that name here was another one already
        return ClassChanges(now=changed, edits=edit.number)

    def without(self, version: int, classes: Collection[str], own: Collection[str]) -> ClassChanges:
        """Return the changes without those that a later version of the fleet's exit has made, by its classes.

        A class that somebody teaches later under such a name is one of its own. Nor is a class forgotten that was
        taught here again. own: classes that the robot knows by itself.
        """
        kept = {
            name: one
            for name, one in self.now.items()
            if (name in classes or one.since >= version) and not (one.to == GONE and name in own)
        }
        return replace(self, now=kept)

    def called(self, name: str) -> str:
        """Return what a class of the fleet is called here."""
        return self.now[name].to if name in self.now else name
