"""Class edits, done to samples that are here: those that wait or are rehearsed, their tests, and the head."""

from __future__ import annotations

from collections.abc import Iterable

from broker.wire.messages import ClassEdit
from cloud_trainer.session.member import Member
from cloud_trainer.session.network import MAX_UNREHEARSED, Network
from cloud_trainer.session.sample_memory import SampleRef


def change_classes(
    edit: ClassEdit, event: int, member: Member, members: Iterable[Member], network: Network, *, shared: bool
) -> None:
    """Do to what is here of a robot what its `ClassEdits` does to what comes later.

    event: at which. members: all whose samples the network learns from. shared: whether they may be several. A class
    that another one taught stays, unless it is forgotten everywhere.
    """
    others = [one for one in members if one is not member]
    if network.still:
        network.idle_steps = 0  # the rest has to make up for what the class leaves behind
    if edit.change == "rename":
        _rename(edit.name, edit.to, member, others, network, shared=shared)
        return
    if edit.change == "undo":

        def is_undone(_: str, ref: SampleRef) -> bool:
            return member.owns(ref) and member.edits.is_of_session(ref.session, ref.sample, edit.session)

        network.give_up(is_undone)
    if edit.everywhere:
        for one in others:
            one.forget_elsewhere(edit.name, event)
    if edit.name:
        if not _taught(edit.name, others):
            network.trainer.learner.remove(edit.name)
        member.forget(edit.name)
        network.give_up(lambda name, ref: name == edit.name and (edit.everywhere or member.owns(ref)))


def take_out(member: Member, event: int, members: Iterable[Member], network: Network) -> None:
    """Let a network that several share have learned nothing of one of them, as far as what is left can mend it.

    event: at which. members: all whose samples the network learns from.
    """
    others = [one for one in members if one is not member]
    for name in member.taught:
        if not _taught(name, others):
            network.trainer.learner.remove(name)
    network.give_up(lambda _, ref: member.owns(ref))
    member.leave(event)
    network.idle_steps = 0
    network.owe(MAX_UNREHEARSED)


def _rename(old: str, new: str, member: Member, others: list[Member], network: Network, *, shared: bool) -> None:
    known = member.taught if shared else network.trainer.classes
    member.rounds.rename(old, new, merged=new in known)
    if _taught(old, others):  # the row stays theirs, and rehearsal makes one of the new name
        network.owe(MAX_UNREHEARSED)
    else:
        network.trainer.learner.rename(old, new)
    member.rename(old, new)
    network.memory.rename(old, new, member.number)
    network.waiting.rename(old, new, member.number)


def _taught(name: str, members: list[Member]) -> bool:
    return any(name in one.taught for one in members)
