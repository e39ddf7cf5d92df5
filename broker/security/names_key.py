"""The key that makes tokens of class names: a file of the fleet's owner, which robots have and the trainer never gets.

Tokens are made by AES-SIV (RFC 5297): the same name gives the same token, and one that was changed is not read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from broker.errors import ConfigError
from broker.program.machine import refused
from broker.program.paths import shown, typed_path
from broker.security.private_files import read_private, write_private
from broker.wire.bounds import MAX_TEXT
from broker.wire.names import MARK, PLAIN_NAMES, TOKEN_CHARACTERS, ClassNames, KeyedNames

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

# AES-256-SIV takes two keys of 256 bits as one.
KEY_BYTES = 64
# The synthetic initialisation vector, which stands before what is encrypted.
SIV_BYTES = 16
# Neither may pass for the other, nor for what a later version makes.
NAME, TEXT = [b"reflexarc class name 1"], [b"reflexarc words 1"]
PADDING = b"\0"  # which no name and no text holds

FILE = """\
# Key of a fleet's class names (--names-key). Who has it reads the names, and nobody else does. A lost one cannot be
# made again. It belongs on robots and with their owner, never on the trainer.
{key}
"""


class SivCipher:
    """A Cipher with AES-SIV. Names and texts are padded, so that no length tells anything."""

    def __init__(self, key: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV

        self.most_bytes = _bytes_in(TOKEN_CHARACTERS)
        self.fingerprint = hashlib.sha256(b"reflexarc names key 1" + key).hexdigest()[:16]
        self._siv: AESSIV = AESSIV(key)

    def token(self, name: str) -> str:
        return self._encrypted(name.encode(), TOKEN_CHARACTERS, NAME)

    def name(self, token: str) -> str | None:
        return self._decrypted(token, NAME)

    def sealed(self, text: str) -> str:
        most = _bytes_in(MAX_TEXT)
        data = text.encode()
        if len(data) > most:
            data = data[: most - len("…".encode())].decode(errors="ignore").encode() + "…".encode()
        return self._encrypted(data, MAX_TEXT, TEXT)

    def text(self, sealed: str) -> str | None:
        return self._decrypted(sealed, TEXT)

    def _encrypted(self, data: bytes, characters: int, purpose: list[bytes]) -> str:
        padded = data.ljust(_bytes_in(characters), PADDING)
        return MARK + _base64(self._siv.encrypt(padded, purpose))

    def _decrypted(self, text: str, purpose: list[bytes]) -> str | None:
        from cryptography.exceptions import InvalidTag

        try:
            data = _from_base64(text[len(MARK) :])
            return self._siv.decrypt(data, purpose).rstrip(PADDING).decode()
        except (InvalidTag, ValueError):
            return None


def load_names(file: str) -> ClassNames:
    """Return how names leave a robot with the key in a file; as they are where none is named. Raises ConfigError."""
    if not file:
        return PLAIN_NAMES
    return load_names_key(file)


def load_names_key(file: str | Path) -> KeyedNames:
    """Return what a key file makes and reads. Raises ConfigError, which says how one is made."""
    _need_cryptography()
    path = typed_path(file)
    if not path.exists():
        raise ConfigError(
            f"--names-key {shown(path)} does not exist: copy the fleet's key there, or make one with robot-edge "
            f"names-key {shown(path)}"
        )
    lines = [line for line in read_private(path, "--names-key").splitlines() if line and not line.startswith("#")]
    try:
        key = _from_base64(lines[0])
    except (IndexError, ValueError):
        key = b""
    if len(lines) != 1 or len(key) != KEY_BYTES:
        raise ConfigError(
            f"--names-key {shown(path)} holds no key of class names: copy the fleet's key again, or make one in a new "
            "file with robot-edge names-key"
        )
    return KeyedNames(SivCipher(key))


def make_names_key(path: Path) -> None:
    """Write a new key, which only its user may read. Raises ConfigError where there is a file."""
    _need_cryptography()
    try:
        write_private(path, FILE.format(key=_base64(secrets.token_bytes(KEY_BYTES))))
    except FileExistsError as error:
        raise ConfigError(f"{shown(path)} exists already: name a new file") from error
    except OSError as error:
        raise refused(shown(path), error, path=path) from error


def _need_cryptography() -> None:
    if find_spec("cryptography") is None:
        raise ConfigError("--names-key needs the package `cryptography`: pip install 'reflexarc[encryption]'")


def _bytes_in(characters: int) -> int:
    """Return the bytes to encrypt that fill a token of so many characters, six bits in each."""
    return (characters - len(MARK)) * 6 // 8 - SIV_BYTES


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _from_base64(text: str) -> bytes:
    """Return the bytes of a text that `_base64` made. Raises ValueError."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from error
    if _base64(data) != text:  # bits that stand for nothing are no other way to write the same
        raise ValueError("not canonical")
    return data
