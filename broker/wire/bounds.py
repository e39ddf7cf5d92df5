"""Every bound of what travels: constants, and types that carry their bounds, which validation.py holds messages to."""

from __future__ import annotations

import math
from typing import Annotated

from msgspec import Meta

from broker.errors import MalformedMessage
from broker.wire.quantize import MAX_BITS, MIN_BITS

# What we send at most: AWS IoT Core takes 128 KB, other brokers 1 MB and more.
SEND_LIMIT_BYTES = 128_000
# What we read at most: EMQX's default packet limit, the largest that a robot could be set to.
RECEIVE_LIMIT_BYTES = 1_048_576
# What a sealed payload begins with (broker/security/sealing.py). msgpack never uses it, and JSON begins with a brace.
SEALED = b"\xc1"
# 4 Mi values are 16 MB as float32. At 4 bits that is twice what fits the receive limit, if not compressed.
MAX_VALUES = 4 * 1024 * 1024
MAX_SAMPLES = 4096
# (samples, channels, and up to three more); a video backbone has four after the samples.
MAX_DIMENSIONS = 5
# Each has a range of 8 bytes, so no more of them fit into SEND_LIMIT_BYTES.
MAX_CHANNELS = 16_384
# A class name is shown on pages and in tables.
MAX_CLASS_NAME = 64
# What a trainer's store calls samples that were forgotten, so no class may be called that. Messages that hold it can be
# read all the same: the store keeps batches as they came in.
FORGOTTEN = "?"
MAX_TEXT = 400
MAX_IMAGE_SIZE = 4096
# Classes in an answer: what a person would look at, and no more bytes than a receipt with its reason.
MAX_ANSWERED_CLASSES = 5
# Classes that a robot is told of as forgotten by its fleet: a person forgets a few a day.
MAX_TOLD = 32
# Nobody who waits for longer needs an answer now.
MAX_DEADLINE_SECONDS = 60.0
MAX_COUNT = 2**53  # the largest whole number that JSON readers keep exact
# A person makes a few a day. All of a run are kept, as samples made before them may still be on their way.
MAX_EDITS = 10_000
# An hour: who opens a teaching session and goes away should not have all that passes by taken for a mug.
MAX_TEACH_SECONDS = 3600
# Of what a fleet's exit is cut into: such a piece, sealed and with its topic, stays well within SEND_LIMIT_BYTES.
PIECE_BYTES = 100_000
# Pieces of an exit: 1,000 classes of 1,280 features take 26. Two versions lie beside each other.
MAX_PIECES = 64
# Of its classes: what a trainer takes of one robot where nobody says otherwise.
MAX_EXIT_CLASSES = 1000
# What a head takes of a frame. The largest backbones that there are have 4,096.
MAX_FEATURES = 16_384
DIGEST_BYTES = 32
# More than any bound here needs. Python refuses to print numbers of over 4,300 digits, our errors would too.
MAX_DIGITS = 20


def within(low: float, high: float) -> Meta:
    """Return the bounds of a number. Like every description here, this one follows the name of a field in errors."""
    return Meta(ge=low, le=high, description=f"is {{value}}, not in {low}..{high}")


def hexadecimal(pattern: str) -> Meta:
    """Return the bounds of an identifier."""
    return Meta(pattern=rf"\A{pattern}\Z", description="is not 16 hexadecimal digits")


def sizes(dimensions: int) -> Meta:
    """Return the bounds of a shape's length."""
    return Meta(min_length=1, max_length=dimensions, description=f"is not 1 to {dimensions} whole numbers above 0")


Identifier = Annotated[str, hexadecimal("[0-9a-f]{16}")]
IdentifierOrNone = Annotated[str, hexadecimal("([0-9a-f]{16})?")]
# As part of a topic; empty for none.
NameOrNone = Annotated[
    str, Meta(pattern=r"\A[A-Za-z0-9_-]{0,64}\Z", description="is not up to 64 letters, digits, '-' and '_'")
]
# Control characters but tab and newline would reach terminals through logs; lone surrogates have no UTF-8.
Text = Annotated[
    str,
    Meta(max_length=MAX_TEXT, description=f"has {{length:,}} characters, limit {MAX_TEXT}"),
    Meta(pattern=r"\A[^\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]*\Z", description="has characters that are no text"),
]
Count = Annotated[int, within(0, MAX_COUNT)]
EditCount = Annotated[int, within(0, MAX_EDITS)]
Bits = Annotated[int, within(MIN_BITS, MAX_BITS)]
Number = Annotated[float, within(-1e18, 1e18)]
Amount = Annotated[float, within(0, 1e18)]
Fraction = Annotated[float, within(0, 1)]
Size = Annotated[int, Meta(ge=1)]
# Of one sample, and of several.
SampleShape = Annotated[tuple[Size, ...], sizes(MAX_DIMENSIONS - 1)]
BatchShape = Annotated[tuple[Size, ...], sizes(MAX_DIMENSIONS)]


PieceNumber = Annotated[int, within(0, 2 * MAX_PIECES - 1)]
Piece = Annotated[
    bytes, Meta(min_length=1, max_length=PIECE_BYTES, description=f"is not 1 to {PIECE_BYTES:,} bytes long")
]
Digest = Annotated[
    bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES, description=f"is not {DIGEST_BYTES} bytes long")
]
Digests = Annotated[
    tuple[Digest, ...],
    Meta(min_length=1, max_length=MAX_PIECES, description=f"is not 1 to {MAX_PIECES} of {DIGEST_BYTES} bytes"),
]


def check_class_name(name: str) -> None:
    """Raise MalformedMessage unless a class may have that name: a readable one, and not FORGOTTEN."""
    check_readable_name(name)
    if name == FORGOTTEN:
        raise MalformedMessage(f"class name {name!r} is what forgotten samples are called: use another one")


def check_readable_name(name: str) -> None:
    """Raise MalformedMessage unless the name is 1 to 64 printable characters without blanks at its ends."""
    if not (1 <= len(name) <= MAX_CLASS_NAME and name.isprintable() and name == name.strip()):
        raise MalformedMessage(f"class name {name[:80]!r}: use 1 to {MAX_CLASS_NAME} printable characters")


def check_class_names(field: str, names: tuple[str, ...], most: int) -> None:
    """Raise MalformedMessage unless each name is readable, none is there twice, and they are not more than so many."""
    for one in names:
        check_readable_name(one)
    if len(names) > most or len(set(names)) != len(names):
        raise MalformedMessage(f"field {field!r} has {len(names)} class names, limit {most}, or one twice")


def check_values(shape: tuple[int, ...]) -> None:
    """Raise MalformedMessage for a shape of more values than MAX_VALUES."""
    if math.prod(shape) > MAX_VALUES:
        raise MalformedMessage(f"field 'shape' holds {math.prod(shape)} values, limit {MAX_VALUES:,}")
