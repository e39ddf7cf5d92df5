"""How logs are shared out among actors. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def moves(logs: Iterable[tuple[str, str, bool]], actors: Sequence[str]) -> dict[str, str]:
    """Return the logs that should move, each with its new actor, so that none has two more than another.

    logs: with their actors, and whether their networks are in memory: those stay rather than others. As few move as
    can. Nothing moves where there is no actor.
    """
    own: dict[str, list[str]] = {actor: [] for actor in actors}
    homeless: list[str] = []
    for log, actor, _ in sorted(logs, key=lambda one: not one[2]):
        own.get(actor, homeless).append(log)
    found: dict[str, str] = {}
    for log in homeless:
        if actors:
            found[log] = min(own, key=lambda actor: len(own[actor]))
            own[found[log]].append(log)
    while actors:
        most, least = max(own, key=lambda actor: len(own[actor])), min(own, key=lambda actor: len(own[actor]))
        if len(own[most]) <= len(own[least]) + 1:
            break
        log = own[most].pop()
        found[log] = least
        own[least].insert(0, log)
    return found
