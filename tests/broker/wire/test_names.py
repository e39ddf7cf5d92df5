"""No name is left in what leaves, whatever the message; what comes in is read, or shown as it is."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, get_type_hints

import pytest

from broker.errors import MalformedMessage
from broker.security.names_key import SivCipher
from broker.wire.bounds import MAX_CLASS_NAME, MAX_TEXT, check_class_name
from broker.wire.codec import KINDS, pack, unpack
from broker.wire.messages import CommandResult, Message, Prediction, Receipt, TrainerMetrics
from broker.wire.names import MARKED, PLAIN_NAMES, KeyedNames, is_sealed, short
from tests.broker.wire.test_codec import EVERY_MESSAGE, TABLE, plain

OURS, THEIRS = KeyedNames(SivCipher(bytes(64))), KeyedNames(SivCipher(bytes([1]) * 64))
SCRIPTS = ["mug", "x", "köttur", "кошка", "猫と犬", "قطة", "🍎 apple", "a" * 31, "~", "~mug", '"', "\\", "?!"]
# Texts that hold no class names: whatever is added to a message belongs here, or has a mark.
NAMELESS = {
    *(("robot-state", name) for name in ("weights", "rest_weights", "former", "boot", "run", "weights_digest")),
    *(("robot-state", name) for name in ("fleet", "front", "share")),
    *(("command", name) for name in ("id", "action", "region")),
    *(("class-edit", name) for name in ("boot", "change")),
    *(("activations", name) for name in ("boot", "split")),
    *(("ask", name) for name in ("boot", "split")),
    *(("receipt", name) for name in ("boot", "outcome")),
    *(("prediction", name) for name in ("boot", "by")),
    *(("trainer-metrics", name) for name in ("robot", "boot", "fleet", "apart")),
    *((kind, "boot") for kind in ("answer", "probe", "probe-result", "robot-metrics", "trainer-state")),
    *(("fleet-exit", name) for name in ("boot", "front", "split", "on")),
    ("robot-metrics", "exit_refused"),
    ("robot-state", "exit"),
    ("command-result", "id"),
}


def test_every_field_that_could_hold_a_name_is_marked_or_known_to_hold_none() -> None:
    for kind, message in KINDS.items():
        hints = get_type_hints(message)
        texts = {(kind, one.name) for one in fields(message) if "str" in str(hints[one.name])}
        texts |= {(kind, one.name) for one in fields(message) if "Literal" in str(hints[one.name])}
        marked = {(kind, name) for name, _ in MARKED[message]}
        assert texts - marked == {one for one in NAMELESS if one[0] == kind}, kind
        assert not marked & NAMELESS


@EVERY_MESSAGE
def test_no_name_is_left_in_what_leaves_and_the_same_comes_back(message: Message, file: str) -> None:
    concealed = OURS.conceal(message)
    data = pack(concealed)
    assert not any(name in data for name in ("köttur".encode(), b"k\\u00f6ttur", b"cat", b"teaching"))
    assert plain(OURS.reveal(unpack(data))) == plain(message)
    assert OURS.conceal(concealed) is concealed, "what waits in an outbox is concealed already"
    assert plain(THEIRS.reveal(concealed)) == plain(concealed)
    assert THEIRS.fingerprint != OURS.fingerprint


def test_the_table_above_has_a_name_in_every_field_that_may_have_one() -> None:
    held = {(type(one), name) for one, _ in TABLE for name, mark in MARKED[type(one)] if getattr(one, name)}
    words = {(type(one), name) for one, _ in TABLE for name, mark in MARKED[type(one)] if mark == {"holds": "words"}}
    assert {(kind, name) for kind, marks in MARKED.items() for name, _ in marks} == held | words | TO_OF_COMMAND


TO_OF_COMMAND = {(KINDS["command"], "to")}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_token_is_a_class_name_and_tells_neither_script_nor_length(name: str) -> None:
    token = OURS.token(name)
    check_class_name(token)
    assert (len(token), token.isascii(), OURS.name_of(token)) == (MAX_CLASS_NAME, True, name)
    assert OURS.token(token) == token == KeyedNames(SivCipher(bytes(64))).token(name)
    assert THEIRS.token(name) != token
    assert len(short(token)) == 9


def test_a_name_that_makes_no_token_is_refused_with_what_would() -> None:
    OURS.check("ä" * 15)
    for name in ("a" * 32, "ä" * 16):
        with pytest.raises(MalformedMessage, match=r"bytes in UTF-8, and with --names-key a name has 31 at most"):
            OURS.check(name)
    with pytest.raises(MalformedMessage, match="31 at most"):
        OURS.token("a" * 32)
    with pytest.raises(MalformedMessage, match="printable"):
        OURS.check("a\n")
    with pytest.raises(MalformedMessage, match=r"is no name but the token of one$"):
        OURS.check(OURS.token("mug"))
    with pytest.raises(MalformedMessage, match="this --names-key did not make it"):
        OURS.token(THEIRS.token("mug"))


def test_a_robot_without_a_key_takes_no_token_for_a_name() -> None:
    for name in ("mug", "~mug", "~" + "x" * 62):
        PLAIN_NAMES.check(name)
    with pytest.raises(MalformedMessage, match="is no name but the token of one"):
        PLAIN_NAMES.check(OURS.token("mug"))


def forgeries() -> list[str]:
    token = OURS.token("mug")
    swapped = token[:-1] + ("A" if token[-1] != "A" else "B")
    return [swapped, token[:-1], "~" + "A" * 63, THEIRS.token("mug"), "~", "~" * 64, token.lower(), token[1:] + "~"]


@pytest.mark.parametrize("forged", forgeries())
def test_a_forged_token_is_shown_as_it_is(forged: str) -> None:
    said = Prediction(boot="0" * 16, time=1.0, name=forged, confidence=1.0, by="cloud", latency=0.0)
    assert OURS.reveal(said) == said
    assert OURS.name_of(forged) is None
    assert OURS.reveal_text(f"no class {forged!r}") == f"no class {forged!r}"


def test_tokens_within_words_are_read() -> None:
    token = OURS.token("mug")
    reason = f"2 classes, {token} and {THEIRS.token('cup')}: {token}x"
    read = OURS.reveal(Receipt(boot="0" * 16, sequence=1, outcome="rejected", reason=reason, held=0.0))
    assert read.reason == f"2 classes, mug and {THEIRS.token('cup')}: {token}x"


def metrics(**said: Any) -> TrainerMetrics:
    found = next(one for one, _ in TABLE if isinstance(one, TrainerMetrics))
    return replace(found, **said)


def test_what_has_no_name_in_it_is_not_even_copied() -> None:
    for message in (metrics(), metrics(quarantine="noise")):
        assert OURS.reveal(message) is message


@pytest.mark.parametrize("words", ["ok", "took back 3 frames of 'mug'", "ключ " * 80, "🍎" * 400])
def test_a_robots_words_have_one_length_and_are_cut_where_they_are_long(words: str) -> None:
    result = CommandResult(id="a", ok=True, done=True, text=words[:MAX_TEXT])
    sealed = OURS.conceal(result)
    assert len(sealed.text) == MAX_TEXT
    assert is_sealed(sealed.text)
    unpack(pack(sealed))
    read = OURS.reveal(sealed).text
    assert read == result.text or (result.text.startswith(read[:-1]) and read.endswith("…") and len(read) > 60)
    assert THEIRS.reveal(sealed) == sealed
