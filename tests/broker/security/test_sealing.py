"""What is sealed opens once, for its topic, at whom it was meant for; everything else is refused, and says why."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import MalformedMessage, Unopened
from broker.security import sealing
from broker.security.payload_keys import TrainerKeys, derive, new_master
from broker.security.sealing import LEAST_BYTES, MOST_ADDED_BYTES, Sealing
from broker.wire.bounds import RECEIVE_LIMIT_BYTES, SEALED, SEND_LIMIT_BYTES
from broker.wire.topics import exit_topic, piece_topic, topic

FLEET = TrainerKeys.of(new_master())
STATE, ACTIVATIONS, METRICS = (topic("robot", "r1", one) for one in ("state", "activations", "metrics"))
RECEIPT, COMMAND, RESULT = (topic("robot", "r1", one) for one in ("receipt", "command", "result"))
TRAINER = topic("trainer", "t1", "state")
EXIT, PIECE = exit_topic("dogs", "0" * 16), piece_topic("dogs", "0" * 16, 3)
SECRET = b"mug: activations"


def robot(name: str = "r1", fleet: TrainerKeys = FLEET) -> Sealing:
    return Sealing(fleet.of_robot(name))


def trainer(fleet: TrainerKeys = FLEET) -> Sealing:
    return Sealing(fleet)


def met(*, name: str = "r1") -> tuple[Sealing, Sealing]:
    """Return a robot and a trainer that have heard each other, as behind their first states."""
    one, other = robot(name), trainer()
    assert one.open(TRAINER, other.seal(TRAINER, b"online")) == (b"online", False)
    state = topic("robot", name, "state")
    assert other.open(state, one.seal(state, b"here")) == (b"here", True)
    return one, other


def refusal(reader: Sealing, place: str, sealed: bytes) -> str:
    """Return why a reader does not take it."""
    with pytest.raises(Unopened) as error:
        reader.open(place, sealed)
    return error.value.why


def test_what_is_sealed_opens_once() -> None:
    one, other = met()
    sealed = one.seal(ACTIVATIONS, SECRET)
    assert SECRET not in sealed
    assert b"mug" not in sealed
    assert other.open(ACTIVATIONS, sealed) == (SECRET, True)
    assert refusal(other, ACTIVATIONS, sealed) == "replayed"
    assert one.open(RECEIPT, other.seal(RECEIPT, b"taken")) == (b"taken", True)


def test_what_is_cut_at_any_byte_or_has_any_bit_flipped_is_refused() -> None:
    one, other = met()
    cases = [
        (one.seal(ACTIVATIONS, SECRET), ACTIVATIONS, other),
        (trainer().seal(TRAINER, b"online"), TRAINER, robot()),
    ]
    for sealed, place, reader in cases:
        for length in range(len(sealed)):
            assert refusal(reader, place, sealed[:length]) in {"foreign", "unsealed"}
        for bit in range(8 * len(sealed)):
            changed = bytearray(sealed)
            changed[bit // 8] ^= 1 << bit % 8
            assert refusal(reader, place, bytes(changed)) in {"foreign", "unsealed"}
        assert refusal(reader, place, sealed + b"\0") == "foreign"
        assert reader.open(place, sealed).payload, "and the genuine one still opens"


@given(st.binary(max_size=300), st.sampled_from([STATE, ACTIVATIONS, TRAINER, "", "reflexarc/1/robot/r1", "$SYS/x"]))
def test_whatever_the_bytes_are_nothing_else_is_raised(data: bytes, place: str) -> None:
    for reader in (robot(), trainer()):
        for payload in (data, SEALED + data, SEALED + b"\x01" + data):
            with pytest.raises(Unopened):
                reader.open(place, payload)


def test_sizes_are_checked_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = trainer()
    monkeypatch.setattr(Sealing, "_cipher", None)
    for size in (1, LEAST_BYTES - 1, RECEIVE_LIMIT_BYTES + 1):
        payload = (SEALED + b"\x01").ljust(size, b"\0")[:size]
        assert refusal(reader, ACTIVATIONS, payload) == "foreign"


def test_a_replay_costs_no_decryption(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = met()
    sealed = one.seal(ACTIVATIONS, SECRET)
    other.open(ACTIVATIONS, sealed)
    monkeypatch.setattr(Sealing, "_body", None)
    assert refusal(other, ACTIVATIONS, sealed) == "replayed"


def test_a_payload_stays_with_its_topic_and_its_robot() -> None:
    one, other = met()
    sealed = one.seal(ACTIVATIONS, SECRET)
    for place in (METRICS, topic("robot", "r2", "activations"), topic("trainer", "r1", "metrics")):
        assert refusal(other, place, sealed) == "foreign"
    assert refusal(one, ACTIVATIONS, sealed) == "own"


def test_a_stolen_robot_opens_nothing_of_another_and_speaks_for_nobody_else() -> None:
    one, other = met()
    thief = robot("r2")
    assert refusal(thief, ACTIVATIONS, one.seal(ACTIVATIONS, SECRET)) == "foreign"
    with pytest.raises(MalformedMessage, match="no key"):
        thief.seal(ACTIVATIONS, b"forged")
    # It holds the key of trainers' words, as each robot does, but not the one that signs.
    thief.open(TRAINER, other.seal(TRAINER, b"online"))
    assert refusal(one, TRAINER, thief.seal(TRAINER, b"gone")) == "foreign"
    assert refusal(trainer(), TRAINER, thief.seal(TRAINER, b"gone")) == "foreign"


@pytest.mark.parametrize("place", [EXIT, PIECE])
def test_what_is_for_all_of_a_fleet_is_a_trainers_word_that_no_robot_can_forge(place: str) -> None:
    said = trainer().seal(place, b"version 7")
    for one in (robot("r1"), robot("r2"), trainer()):  # retained, of before they began: and once more as they dial anew
        assert [one.open(place, said).payload for _ in range(2)] == [b"version 7"] * 2
    thief = robot("r2")
    thief.open(place, said)
    assert refusal(robot("r1"), place, thief.seal(place, b"forged")) == "foreign"
    assert refusal(trainer(), place, thief.seal(place, b"forged")) == "foreign"
    other = PIECE if place == EXIT else EXIT
    assert refusal(robot("r1"), other, said) == "foreign"
    assert refusal(robot(fleet=TrainerKeys.of(new_master())), place, said) == "foreign"


def test_another_fleets_key_opens_nothing() -> None:
    stranger = TrainerKeys.of(new_master())
    assert refusal(robot(fleet=stranger), TRAINER, trainer().seal(TRAINER, b"online")) == "foreign"
    assert refusal(trainer(), STATE, robot(fleet=stranger).seal(STATE, b"here")) == "foreign"


def test_what_is_not_sealed_is_told_from_what_does_not_open() -> None:
    for plain in (b"", b'{"kind": "robot-state"}', b"\x83\xa4kind"):
        assert refusal(trainer(), STATE, plain) == "unsealed"


# Restarts


def test_a_trainer_that_starts_again_refuses_what_was_said_to_the_former_one() -> None:
    one, _ = met()
    kept = [(place, one.seal(place, SECRET)) for place in (STATE, ACTIVATIONS, METRICS)]
    again = trainer()
    for place, sealed in kept:
        assert refusal(again, place, sealed) == "stale"
    one.open(TRAINER, again.seal(TRAINER, b"online"))
    for place, _ in kept:
        assert again.open(place, one.seal(place, SECRET)).fresh, "what it says once it has heard of it counts"
    for place, sealed in kept:
        assert refusal(again, place, sealed) in {"stale", "replayed"}


def test_a_robot_that_starts_again_is_heard_and_obeys_no_former_command() -> None:
    one, other = met()
    tool = robot()
    assert not tool.has_met(COMMAND)
    assert refusal(one, COMMAND, tool.seal(COMMAND, b"")) == "stale", "it names nobody yet"
    assert tool.open(RESULT, one.seal(RESULT, b"")).fresh
    assert tool.has_met(COMMAND)
    command = tool.seal(COMMAND, b"forget mug")
    assert one.open(COMMAND, command) == (b"forget mug", True)
    again = robot()
    assert refusal(again, COMMAND, command) == "stale"
    again.open(TRAINER, other.seal(TRAINER, b"online"))
    assert other.open(STATE, again.seal(STATE, b"here")).fresh
    assert again.open(RECEIPT, other.seal(RECEIPT, b"taken")).fresh


def test_a_state_of_former_days_under_its_own_name_counts_as_retained_only() -> None:
    one, _ = met()
    old = one.seal(STATE, b"of the former process")
    again = robot()
    assert again.open(STATE, old) == (b"of the former process", False)
    again_said = again.seal(STATE, b"of this one")
    assert one.open(STATE, again_said) == (b"of this one", True), "it has heard us: a namesake that is there now"


# What the broker repeats


def test_a_retained_state_may_come_again_and_none_before_it() -> None:
    reader, other = robot(), trainer()
    first, second = (other.seal(TRAINER, text) for text in (b"1", b"2"))
    for sealed in (first, first, second, second):
        reader.open(TRAINER, sealed)
    assert refusal(reader, TRAINER, first) == "replayed"
    successor = trainer()
    assert reader.open(TRAINER, successor.seal(TRAINER, b"new")).payload == b"new"
    assert refusal(reader, TRAINER, second) == "replayed", "another trainer has begun since"


def test_a_will_counts_whenever_it_comes_and_only_of_who_was_there() -> None:
    one, other = robot(), trainer()
    will = one.seal_will(STATE, b"gone")
    assert refusal(other, STATE, will) == "stale"
    one.open(TRAINER, other.seal(TRAINER, b"online"))
    for _ in range(2):  # each time that the connection breaks
        other.open(STATE, one.seal(STATE, b"here"))
        assert other.open(STATE, will) == (b"gone", True)
    successor = robot()
    successor.open(TRAINER, other.seal(TRAINER, b"online"))
    other.open(STATE, successor.seal(STATE, b"here"))
    assert refusal(other, STATE, will) == "replayed", "its successor is there"


@given(st.permutations(range(12)))
def test_messages_may_overtake_one_another(order: list[int]) -> None:
    one, other = met()
    sealed = [one.seal(ACTIVATIONS, bytes([number])) for number in range(12)]
    for number in order:
        assert other.open(ACTIVATIONS, sealed[number]).payload == bytes([number])
    for one_more in sealed:
        assert refusal(other, ACTIVATIONS, one_more) == "replayed"


def test_what_is_far_behind_is_refused() -> None:
    one, other = met()
    sealed = [one.seal(ACTIVATIONS, b"x") for _ in range(sealing.WINDOW + 1)]
    other.open(ACTIVATIONS, sealed[-1])
    assert refusal(other, ACTIVATIONS, sealed[0]) == "replayed"
    assert other.open(ACTIVATIONS, sealed[1]).payload == b"x"


def test_where_too_many_senders_came_to_be_remembered_none_of_them_counts_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sealing, "MAX_REMEMBERED", 8)
    one, commands = robot(), []
    for _ in range(20):
        tool = robot()
        assert refusal(one, COMMAND, tool.seal(COMMAND, b"")) == "stale"
        tool.open(RESULT, one.seal(RESULT, b""))
        commands.append(tool.seal(COMMAND, b"forget mug"))
        assert one.open(COMMAND, commands[-1]).fresh
    assert {refusal(one, COMMAND, command) for command in commands} <= {"stale", "replayed"}


# The format


def test_the_page_says_how_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[3] / "docs" / "protocol.md").read_text()
    own, of_payload, sealed = page.partition("**An example.**")[2].partition("```text\n")[2].splitlines()[:3]
    keys = TrainerKeys.of(bytes(range(32))).of_robot("r1")
    assert keys.key.hex() == own
    assert derive(keys.key, f"payload {ACTIVATIONS}", salt=bytes(range(16))).hex() == of_payload
    other = trainer(TrainerKeys.of(bytes(range(32))))
    other._boot = bytes(range(16, 32))
    one = Sealing(keys)
    one.open(TRAINER, other.seal(TRAINER, b"online"))
    one._boot = bytes(range(16))
    assert one.seal(ACTIVATIONS, b"hello").hex() == sealed
    assert other.open(ACTIVATIONS, bytes.fromhex(sealed)) == (b"hello", True)
    assert f"adds {LEAST_BYTES} to {MOST_ADDED_BYTES} bytes" in page


# Nonces, and what it costs


def test_no_nonce_comes_twice_under_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[tuple[bytes, bytes]] = []

    class Recorded:
        def __init__(self, key: bytes) -> None:
            self._key, self._cipher = key, ChaCha20Poly1305(key)

        def encrypt(self, nonce: bytes, data: bytes, associated: bytes) -> bytes:
            used.append((self._key, nonce))
            return self._cipher.encrypt(nonce, data, associated)

    monkeypatch.setattr(sealing, "ChaCha20Poly1305", Recorded)
    for sender in (robot(), robot(), trainer(), trainer()):
        for place in (STATE, ACTIVATIONS):
            for _ in range(20):
                sender.seal(place, b"x")
        sender.seal_will(STATE, b"gone")
    assert len(used) == len(set(used)) == 4 * 41
    assert len({key for key, _ in used}) == 8, "one for each process and topic"


def test_a_full_message_fits_every_bound() -> None:
    one, other = robot(), trainer()
    readers = [trainer() for _ in range(sealing.MAX_NAMED + 30)]
    for number, reader in enumerate(readers):
        place = topic("trainer", f"t{number}", "state")
        one.open(place, reader.seal(place, b"online"))
    for _ in range(sealing.MAX_NAMED_OF_ROBOT + 30):
        one.open(STATE, robot().seal(STATE, b"here"))
    one.open(TRAINER, other.seal(TRAINER, b"online"))
    sealed = one.seal(ACTIVATIONS, bytes(SEND_LIMIT_BYTES))
    assert len(sealed) <= SEND_LIMIT_BYTES + MOST_ADDED_BYTES <= 131_072, "AWS IoT Core's limit"
    other.open(STATE, one.seal(STATE, b"here"))
    assert other.open(ACTIVATIONS, sealed).payload == bytes(SEND_LIMIT_BYTES), "who was heard last is named"
    signed = other.seal(TRAINER, b"x")
    assert len(signed) - 1 <= MOST_ADDED_BYTES


def test_sixteen_trainers_are_all_named() -> None:
    one = robot()
    trainers = [trainer() for _ in range(16)]
    for number, other in enumerate(trainers):
        place = topic("trainer", f"t-{number}", "state")
        one.open(place, other.seal(place, b"online"))
    sealed = one.seal(STATE, b"here")
    assert all(other.open(STATE, sealed).fresh for other in trainers)


def test_who_was_heard_long_ago_is_named_no_more() -> None:
    now = itertools.count(0, sealing.NAMED_SECONDS)
    one = Sealing(FLEET.of_robot("r1"), clock=lambda: float(next(now)))
    old = trainer()
    one.open(TRAINER, old.seal(TRAINER, b"online"))
    for _ in range(sealing.ALWAYS_NAMED):
        newer = trainer()
        one.open(TRAINER, newer.seal(TRAINER, b"online"))
    sealed = one.seal(STATE, b"here")
    assert newer.open(STATE, sealed).fresh
    assert refusal(old, STATE, sealed) == "stale"
