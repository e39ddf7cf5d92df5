"""Who looks at the live view: at most so many at once. Used on the page's thread only."""

from __future__ import annotations

from collections import OrderedDict

# A tenth of a core encodes for all of them, but each takes its share of the robot's link.
MAX_VIEWERS = 8


class Viewers:
    """Those who look. A further one takes the place of the one who has looked for longest."""

    def __init__(self, most: int = MAX_VIEWERS) -> None:
        self._most = most
        self._views: OrderedDict[str, object] = OrderedDict()

    def begin(self, who: str) -> object:
        """Begin a view and return it; a former one of the same viewer is over."""
        self._views.pop(who, None)
        self._views[who] = view = object()
        while len(self._views) > self._most:
            self._views.popitem(last=False)
        return view

    def has(self, who: str, view: object) -> bool:
        """Whether that view goes on."""
        return self._views.get(who) is view

    def end(self, who: str, view: object) -> None:
        """End a view, so that it takes nobody's place. Does nothing where it is over."""
        if self.has(who, view):
            del self._views[who]

    def __contains__(self, who: str) -> bool:
        return who in self._views

    @property
    def full(self) -> bool:
        """Whether nobody can begin without another having to go."""
        return len(self._views) >= self._most
