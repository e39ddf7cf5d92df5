"""Two trainers at one broker: neither goes unnoticed."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from broker.errors import NameTaken
from broker.link.memory import MemoryLink
from broker.wire import topics
from broker.wire.codec import pack
from broker.wire.messages import TrainerState
from cloud_trainer.messages.other_trainers import TAKEOVER_SECONDS, OtherTrainers
from tests.cloud_trainer.world import STATE, TRAINER, Cloud, batches, of

OLDER = dataclasses.replace(TRAINER, boot="0" * 16, started=0.5)
YOUNGER = dataclasses.replace(TRAINER, boot="2" * 16, started=2.0)


@pytest.fixture(name="others")
def _others() -> OtherTrainers:
    return OtherTrainers("t1", TRAINER)


def gone(state: TrainerState) -> TrainerState:
    return dataclasses.replace(state, online=False)


def test_an_older_one_of_our_name_ends_us(others: OtherTrainers) -> None:
    with pytest.raises(NameTaken, match=r"another trainer named 't1' is online .*: end it first, or leave the robots"):
        others.hear("t1", OLDER, 0, retained=False)
    assert not others.name_is_free(10**6), "we must not say goodbye in its name"


def test_a_younger_one_of_our_name_is_answered_and_logged_once(
    others: OtherTrainers, caplog: pytest.LogCaptureFixture
) -> None:
    assert [others.hear("t1", YOUNGER, 0, retained=False) for _ in range(3)] == [True] * 3
    assert others.hear("t1", gone(YOUNGER), 0, retained=False), "its last will is not ours"
    assert caplog.messages == ["another trainer named 't1' has started: it ends, as this one was first"]
    assert others.name_is_free(0)


def test_what_is_left_of_a_dead_one_holds_us_up_for_a_while(others: OtherTrainers) -> None:
    assert not others.hear("t1", OLDER, 100, retained=True)
    assert not others.name_is_free(100 + TAKEOVER_SECONDS - 0.1)
    assert others.name_is_free(100 + TAKEOVER_SECONDS)
    others.hear("t1", OLDER, 100, retained=True)
    assert others.hear("t1", gone(OLDER), 101, retained=False)
    assert others.name_is_free(101)


def test_one_that_was_there_before_us_was_first_whatever_the_clocks_say(others: OtherTrainers) -> None:
    assert not others.hear("t1", YOUNGER, 100, retained=True)
    assert not others.name_is_free(100 + TAKEOVER_SECONDS - 0.1)
    with pytest.raises(NameTaken):
        others.hear("t1", YOUNGER, 101, retained=False)


def test_one_that_gave_no_sign_of_life_is_the_younger_one_when_it_is_back(others: OtherTrainers) -> None:
    others.hear("t1", YOUNGER, 100, retained=True)
    assert others.name_is_free(100 + TAKEOVER_SECONDS)
    others.hear("t1", TRAINER, 120, retained=False)  # our own, as it comes back from the broker
    assert others.hear("t1", YOUNGER, 130, retained=False)
    assert not others.hear("t1", YOUNGER, 140, retained=True), "which we have overwritten"
    assert others.name_is_free(140)


def test_we_and_our_past_are_no_other(others: OtherTrainers, caplog: pytest.LogCaptureFixture) -> None:
    for state in (TRAINER, gone(TRAINER), gone(OLDER)):
        others.hear("t1", state, 0, retained=True)
    assert not others.hear("t1", dataclasses.replace(TRAINER, trouble="full"), 0, retained=False)
    assert others.name_is_free(0)
    assert caplog.messages == []


def test_one_of_another_name_is_warned_about_once(others: OtherTrainers, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    others.hear("t2", YOUNGER, 0, retained=True)
    assert caplog.messages == [], "it may be gone"
    for state in (OLDER, OLDER, gone(OLDER), gone(OLDER), YOUNGER):
        assert not others.hear("t2", state, 0, retained=False)
    warning, farewell, again = caplog.messages
    assert warning.startswith("another trainer, 't2', is at this broker too: both train for every robot")
    assert (farewell, again) == ("the other trainer, 't2', has gone", warning)
    assert others.name_is_free(0)


def test_nothing_is_taken_nor_said_while_the_name_may_be_anothers(cloud: Cloud) -> None:
    cloud.node._others.hear("t1", OLDER, cloud.clock.now, retained=True)
    assert cloud.say("r1", STATE, *batches(2)) == []
    assert of(TrainerState, cloud.work()) == []
    cloud.work(TAKEOVER_SECONDS)
    assert len(cloud.say("r1", STATE, *batches(2))) == 2


def test_a_state_that_replaced_ours_is_replaced_at_once(cloud: Cloud) -> None:
    cloud.work()
    other = MemoryLink(cloud.link._broker)
    other.publish(topics.topic("trainer", "t1", "state"), pack(gone(YOUNGER)), retain=True)
    assert of(TrainerState, cloud.work())[-1] == TRAINER
