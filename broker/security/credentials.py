"""Who we are to the broker, and whom we trust: from a TOML file or from the environment, never from the command line.

credentials.toml, in which every key is optional and paths are relative to the file:

    ca = "ca.crt"                  # who may have signed the broker's certificate; without it the system's authorities
    certificate = "client.crt"     # our own, with its key
    key = "client.key"
    username = "r1"                # and the password, here or in a file of its own
    password = "..."
    password_file = "password"
    payload_key = "payload.key"    # what payloads are sealed with, where --payload-key names nothing else
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from broker.errors import ConfigError
from broker.program.machine import refused
from broker.program.paths import did_you_mean, typed_path
from broker.security.private_files import check_private, read_private

if TYPE_CHECKING:
    from broker.security.payload_keys import PayloadKeys

# Each key of the file can stand in the environment instead, as REFLEXARC_MQTT_USERNAME and so on.
ENVIRONMENT_PREFIX = "REFLEXARC_MQTT_"
PATHS = ("ca", "certificate", "key", "password_file", "payload_key")
KEYS = (*PATHS, "username", "password")
# MQTT 3.1.1, section 3.1.3.5: a length of 16 bits stands before it.
MAX_PASSWORD_BYTES = 65_535


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """What a link shows to the broker, and what it expects of it.

    ca: certificates of who may have signed the broker's; None for the system's authorities.
    certificate, key: our own, for a broker that asks for one.
    payload_key: file with the keys that payloads are sealed with; no broker ever sees it.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    payload_key: Path | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            missing, given = ("key", "certificate") if self.key is None else ("certificate", "key")
            raise ConfigError(f"credentials: a {given} without its {missing}: name both, or neither")
        if self.password is not None and self.username is None:
            raise ConfigError("credentials: a password without a username: name both, or neither")
        if self.password is not None and not 1 <= len(self.password.encode()) <= MAX_PASSWORD_BYTES:
            raise ConfigError(f"credentials: the password is empty or longer than {MAX_PASSWORD_BYTES:,} bytes")

    @property
    def needs_tls(self) -> bool:
        """Whether these mean anything only on an encrypted connection."""
        return self.ca is not None or self.certificate is not None


def load_credentials(file: str) -> Credentials:
    """Read a credentials file; for an empty name the environment. One or the other: they are not mixed.

    Raises ConfigError for what cannot be read, is unknown, or does not go together.
    """
    if not file:
        return _credentials(_from_environment(os.environ), Path(), "environment")
    path = typed_path(file)
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise refused(f"--credentials {path}", error, f"{error.strerror}{did_you_mean(path)}") from error
    except ValueError as error:
        raise ConfigError(f"--credentials {path}: {error}") from error
    for name, value in settings.items():
        if name not in KEYS:
            raise ConfigError(f"--credentials {path}: unknown key {name!r}; use {', '.join(KEYS)}")
        if not isinstance(value, str) or not value:
            raise ConfigError(f"--credentials {path}: {name} must be a text that is not empty")
    if "password" in settings:
        check_private(path, "--credentials")
    return _credentials(settings, path.parent, f"--credentials {path}")


def payload_keys_for(file: str, credentials: Credentials, *, robot: str | None = None) -> PayloadKeys | None:
    """Return what one end seals its payloads with; None where neither file nor credentials name a key.

    file: of --payload-key, which counts before what the credentials name. robot: its name; None for a trainer.
    Raises ConfigError where the file is for another end, is none, or `cryptography` is missing.
    """
    path = typed_path(file) if file else credentials.payload_key
    if path is None:
        return None
    if find_spec("cryptography") is None:
        raise ConfigError(
            "payloads are sealed with the package `cryptography`, which is missing: pip install 'reflexarc[encryption]'"
        )
    from broker.security.payload_keys import keys_for  # needs it

    return keys_for(path, "--payload-key" if file else "credentials: payload_key", robot)


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    named = {name: environment.get(ENVIRONMENT_PREFIX + name.upper()) for name in KEYS}
    return {name: value for name, value in named.items() if value}


def _credentials(settings: dict[str, str], folder: Path, where: str) -> Credentials:
    paths = {name: folder / typed_path(settings[name]) for name in PATHS if name in settings}
    for name, path in paths.items():
        _check_readable(path, f"{where}: {name}")
    if "key" in paths:
        check_private(paths["key"], f"{where}: key")
    password, password_file = settings.get("password"), paths.get("password_file")
    if password_file is not None:
        if password is not None:
            raise ConfigError(f"{where}: password and password_file: one of them is too many")
        password = read_private(password_file, f"{where}: password_file").rstrip("\r\n")
    return Credentials(
        ca=paths.get("ca"),
        certificate=paths.get("certificate"),
        key=paths.get("key"),
        username=settings.get("username"),
        password=password,
        payload_key=paths.get("payload_key"),
    )


def _check_readable(path: Path, what: str) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise refused(f"{what} {path}", error, error.strerror) from error
