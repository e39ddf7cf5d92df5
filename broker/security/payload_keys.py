"""The keys that payloads are sealed with: who holds which, how they come from one master key, and their files.

    master key                    trainers hold it
    ├── a key for each robot      that robot and trainers; what is under the robot's topics
    ├── a key for trainers        all robots and trainers; what trainers say to all
    └── a key to sign with        trainers; robots hold its public half, so none of them can announce a trainer

A stolen robot has its own key, that for trainers' words, and no other robot's. The file is TOML and a secret.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import sys
from dataclasses import dataclass, field
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from broker.errors import ConfigError
from broker.program.paths import shown
from broker.security.private_files import read_private
from broker.wire.topics import NAME, Role

# All keys here: of the AEAD, and of Ed25519 in both halves.
KEY_BYTES = 32
FIELDS = {"trainer": ("master",), "robot": ("name", "key", "trainers", "signed_by")}

TRAINER_FILE = """\
# Opens and seals the payloads of the whole fleet: for trainers only, --payload-key THIS_FILE. Keep it secret.
role = "trainer"
master = "{master}"
"""

ROBOT_FILE = """\
# Opens and seals the payloads of robot {name}: --payload-key THIS_FILE. Keep it secret.
role = "robot"
name = "{name}"
key = "{key}"
trainers = "{trainers}"
signed_by = "{signed_by}"
"""


def derive(secret: bytes, info: str, salt: bytes | None = None) -> bytes:
    """Return a key of KEY_BYTES for one purpose: HKDF with SHA-256 (RFC 5869). info: the purpose."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=f"reflexarc/1 {info}".encode()).derive(secret)


@dataclass(frozen=True, kw_only=True)
class RobotKeys:
    """What one robot holds, and whoever commands it.

    key: of what is under its own topics. trainers: of what is under trainers' topics. verifier: of trainers' states.
    """

    name: str
    key: bytes = field(repr=False)
    trainers: bytes = field(repr=False)
    verifier: Ed25519PublicKey = field(repr=False)
    signer: None = None

    def key_for(self, role: Role, name: str) -> bytes | None:
        """Return the key of all topics of one name; None for another robot's."""
        if role == "trainer":
            return self.trainers
        return self.key if name == self.name else None


@dataclass(frozen=True, kw_only=True)
class TrainerKeys:
    """What trainers hold: all there is, from the master key."""

    master: bytes = field(repr=False)
    signer: Ed25519PrivateKey = field(repr=False)
    verifier: Ed25519PublicKey = field(repr=False)

    @classmethod
    def of(cls, master: bytes) -> TrainerKeys:
        """Return the keys that come from a master key."""
        signer = Ed25519PrivateKey.from_private_bytes(derive(master, "trainers sign"))
        return cls(master=master, signer=signer, verifier=signer.public_key())

    def key_for(self, role: Role, name: str) -> bytes | None:
        """Return the key of all topics of one name; all trainers share one."""
        return derive(self.master, "trainers" if role == "trainer" else f"robot {name}")

    def of_robot(self, name: str) -> RobotKeys:
        """Return what that robot is to hold."""
        own, trainers = self.key_for("robot", name), self.key_for("trainer", "")
        assert own
        assert trainers
        return RobotKeys(name=name, key=own, trainers=trainers, verifier=self.verifier)


PayloadKeys = RobotKeys | TrainerKeys


def new_master() -> bytes:
    """Return a master key for a new fleet."""
    return secrets.token_bytes(KEY_BYTES)


def key_file(keys: PayloadKeys) -> str:
    """Return the text of a key file."""
    match keys:
        case TrainerKeys():
            return TRAINER_FILE.format(master=_text(keys.master))
        case RobotKeys():
            return ROBOT_FILE.format(
                name=keys.name,
                key=_text(keys.key),
                trainers=_text(keys.trainers),
                signed_by=_text(keys.verifier.public_bytes_raw()),
            )


def read_key_file(path: Path, what: str) -> PayloadKeys:
    """Return the keys in a file. what: the flag or setting that names it.

    Raises ConfigError where others may read it, or it is none.
    """
    where = f"{what} {shown(path)}"
    try:
        settings = tomllib.loads(read_private(path, what))
    except ValueError as error:
        raise ConfigError(f"{where} is no payload key: {error}; `local-broker provision --seal` writes one") from error
    role = settings.pop("role", None)
    if not isinstance(role, str) or set(settings) != set(FIELDS.get(role, ())) or role not in FIELDS:
        raise ConfigError(f"{where} is no payload key: `local-broker provision --seal` writes one (payload.key)")
    if role == "trainer":
        return TrainerKeys.of(_key(settings, "master", where))
    name = settings["name"]
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"{where}: {name!r} is no robot's name")
    return RobotKeys(
        name=name,
        key=_key(settings, "key", where),
        trainers=_key(settings, "trainers", where),
        verifier=Ed25519PublicKey.from_public_bytes(_key(settings, "signed_by", where)),
    )


def keys_for(path: Path, what: str, robot: str | None) -> PayloadKeys:
    """Return the keys in a file for one end. robot: its name; None for a trainer.

    Raises ConfigError where the file is for another end.
    """
    keys = read_key_file(path, what)
    match keys:
        case TrainerKeys() if robot is not None:
            raise ConfigError(
                f"{what} {shown(path)} is for trainers and opens every robot's payloads, which a robot that may be "
                f"stolen must not: give robot {robot} its own payload.key"
            )
        case RobotKeys(name=name) if robot is None:
            raise ConfigError(f"{what} {shown(path)} is the key of robot {name}: a trainer needs a trainer's")
        case RobotKeys(name=name) if name != robot:
            raise ConfigError(
                f"{what} {shown(path)} is the key of robot {name}, and this is robot {robot}: give it its own, or use "
                f"--robot {name}"
            )
    return keys


def _text(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _key(settings: dict[str, object], name: str, where: str) -> bytes:
    text = settings[name]
    try:
        key = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{where}: {name} is not {KEY_BYTES} bytes in base64; copy the file once more")
    return key
