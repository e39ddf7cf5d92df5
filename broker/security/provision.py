"""Writes what a broker with TLS, access rules and no anonymous clients needs, and what each end needs to log in.

    FOLDER/ca/          the authority's certificate and key, and a copy of each certificate it signed: keep it offline
    FOLDER/broker/      mosquitto.conf and the files that it names; mosquitto is started in there
    FOLDER/<name>/      for a robot or trainer: credentials.toml (certificate) and password.toml (user and password)

A sealed fleet has a payload.key in ca/ and for each name. The broker gets none.

What exists stays as it is, so running it again adds an identity and touches no other.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from broker.address import CERTIFICATE_PORT, PASSWORD_PORT
from broker.errors import ConfigError
from broker.program.machine import refused
from broker.security.access import acl_with, acl_without, role_in_acl
from broker.security.certificates import (
    Signed,
    hosts_of,
    last_day,
    new_authority,
    new_client,
    new_revocations,
    new_server,
    read_authority,
    revoked,
    revoked_in,
)
from broker.security.payload_keys import TrainerKeys, key_file, new_master, read_key_file
from broker.security.private_files import check_private
from broker.wire.bounds import SEND_LIMIT_BYTES
from broker.wire.topics import Role, check_name

RESERVED_NAMES = frozenset({"ca", "broker"})
ALWAYS_HOSTS = ("localhost", "127.0.0.1")
# 32 random bytes: no number of iterations makes them harder to guess, and mosquitto computes them on its only thread.
PASSWORD_BYTES = 32
ITERATIONS = 1000
SALT_BYTES = 12  # mosquitto's own
KEY_MODE, PUBLIC_MODE, FOLDER_MODE = 0o600, 0o644, 0o700

PAYLOAD_KEY = "payload.key"
CLIENT_FILES = ("ca.crt", "client.crt", "client.key", "credentials.toml", "password.toml", PAYLOAD_KEY)
PAYLOAD_KEY_LINE = f'payload_key = "{PAYLOAD_KEY}"\n'

MOSQUITTO_CONFIG = """\
# Written once by `local-broker provision`; yours to change. Paths are relative: start mosquitto in this folder.
# After a change of acl, passwords, revoked.pem or certificates, have them read again: kill -HUP PID
allow_anonymous false
acl_file acl
password_file passwords

# Nothing on disk: robots keep what is not receipted, states are repeated, and a stale snapshot would replay old ones.
persistence false

# A message of ours and its topic, and no more, so that a stolen robot cannot fill the memory with a few large ones.
max_packet_size {packet_bytes}
# For a trainer that is busy for seconds: by itself mosquitto keeps 1,000 and silently drops the rest.
max_queued_messages 10000
max_queued_bytes 268435456
# A trainer far away takes so many messages in a round trip.
max_inflight_messages 100
# A session that nobody came back for.
persistent_client_expiration 1d
set_tcp_nodelay true

log_dest stderr
log_type error
log_type warning
log_type notice
# Shows what the access rules denied, with all else: log_type debug

# Connections are bounded for each port, as nobody's flood should use up the memory. mosquitto has no bound for one
# address: 1,000 connections that say nothing keep everybody else out of a port. Each is closed after 90 seconds, and
# can be opened again. What stops that is a firewall rule; docs/security.md ("Connections") has it. Both ports full
# take 2,000 file handles: where mosquitto runs without our systemd unit, set `ulimit -n 4096` first.

# With a certificate. The name in it is the user.
listener {certificate_port}
max_connections 1000
cafile ca.crt
certfile server.crt
keyfile server.key
tls_version tlsv1.2
crlfile revoked.pem
require_certificate true
use_identity_as_username true

# With user and password.
listener {password_port}
max_connections 1000
cafile ca.crt
certfile server.crt
keyfile server.key
tls_version tlsv1.2
"""

CERTIFICATE_TOML = """\
# Who {name} is: --broker mqtts://HOST:{certificate_port} --credentials THIS_FILE. Paths are relative to this file.
ca = "ca.crt"
certificate = "client.crt"
key = "client.key"
"""

USER_TOML = """\
# Instead of the certificate: --broker mqtts://HOST:{password_port} --credentials THIS_FILE.
ca = "ca.crt"
username = "{name}"
password = "{password}"
"""


class Written(NamedTuple):
    """A file that was written or removed, and what it is."""

    path: Path
    what: str


class Provisioned(NamedTuple):
    """What provisioning did. hosts: the names that the broker's certificate is for."""

    files: list[Written]
    hosts: list[str]


def provision(
    folder: Path,
    *,
    robots: Sequence[str] = (),
    trainers: Sequence[str] = (),
    hosts: Sequence[str] = (),
    removed: Sequence[str] = (),
    seal: bool = False,
) -> Provisioned:
    """Write what is missing for the broker and for these identities, and lock out those to be removed.

    hosts: names and addresses by which clients reach the broker, beside localhost.
    seal: whether payloads are to be sealed from now on; a fleet that is sealed stays so.
    Raises ConfigError for names that cannot be, a folder that cannot be written, and an authority without its key.
    """
    identities: list[tuple[Role, str]] = [
        *(("robot", name) for name in dict.fromkeys(robots)),
        *(("trainer", name) for name in dict.fromkeys(trainers)),
    ]
    _check_identities(identities, removed)
    try:
        writer = _Writer(folder, seal)
        for name in removed:
            writer.check_known(name)
        for role, name in identities:
            writer.check_role(role, name)
        broker_hosts = writer.write_broker(hosts)
        for name in removed:
            writer.remove(name)
        for role, name in identities:
            writer.add(role, name)
    except OSError as error:
        raise refused(str(folder), error, path=folder) from error
    return Provisioned(writer.files, broker_hosts)


def password_line(name: str, password: str) -> str:
    """Return a line of mosquitto's password file: PBKDF2 with SHA-512, which it calls $7$."""
    salt = secrets.token_bytes(SALT_BYTES)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)
    return f"{name}:$7${ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def _check_identities(identities: Sequence[tuple[Role, str]], removed: Sequence[str]) -> None:
    names = [name for _, name in identities]
    for role, name in identities:
        check_name(name, f"--{role}")
        if name in RESERVED_NAMES:
            raise ConfigError(f"--{role} {name}: the folder of that name is for something else; choose another name")
        if names.count(name) > 1:
            raise ConfigError(f"--robot and --trainer {name}: a user of the broker is one or the other")
        if name in removed:
            raise ConfigError(f"--remove {name} and --{role} {name}: do one, then the other")


class _Writer:
    def __init__(self, folder: Path, seal: bool) -> None:
        self.files: list[Written] = []
        self._folder = folder
        self._ca, self._broker = folder / "ca", folder / "broker"
        for path in (folder, self._ca, self._broker):
            path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        self._authority = self._open_authority()
        self._fleet_keys = self._open_fleet_keys(seal)

    def check_known(self, name: str) -> None:
        if role_in_acl(self._acl, name) is None:
            known = [line.removeprefix("user ") for line in self._acl.splitlines() if line.startswith("user ")]
            raise ConfigError(f"--remove {name}: there is no such identity; there are {', '.join(known) or 'none'}")

    def check_role(self, role: Role, name: str) -> None:
        before = role_in_acl(self._acl, name)
        if before not in {None, role}:
            raise ConfigError(f"--{role} {name}: this is a {before} already; choose another name, or --remove it first")

    def write_broker(self, hosts: Sequence[str]) -> list[str]:
        """Write what the broker needs and lacks; return the names that its certificate is for."""
        broker = self._broker
        self._write_missing(broker / "ca.crt", self._authority.certificate_pem, "whom the broker trusts")
        self._write_missing(broker / "revoked.pem", new_revocations(self._authority, []), "revoked certificates")
        self._write_missing(broker / "acl", b"", "who may read and write what", KEY_MODE)
        self._write_missing(broker / "passwords", b"", "salted hashes of passwords", KEY_MODE)
        settings = MOSQUITTO_CONFIG.format(
            # The longest topic and the packet's header are far below a kilobyte.
            packet_bytes=SEND_LIMIT_BYTES + 1024,
            certificate_port=CERTIFICATE_PORT,
            password_port=PASSWORD_PORT,
        )
        self._write_missing(broker / "mosquitto.conf", settings.encode(), "the broker's settings")
        certificate, key = broker / "server.crt", broker / "server.key"
        complete = certificate.exists() and key.exists()
        before = hosts_of(certificate.read_bytes()) if complete else list(ALWAYS_HOSTS)
        wanted = list(dict.fromkeys([*hosts, *before]))
        if not complete or set(wanted) != set(before):
            try:
                server = new_server(self._authority, wanted)
            except ValueError as error:
                raise ConfigError(f"--host: {error}") from error
            self._write(key, server.key_pem, "the broker's key", KEY_MODE)
            self._write(certificate, server.certificate_pem, f"for {', '.join(wanted)}")
        return wanted

    def add(self, role: Role, name: str) -> None:
        """Write what an identity needs and lacks."""
        own = self._folder / name
        own.mkdir(mode=FOLDER_MODE, exist_ok=True)
        self._write_missing(own / "ca.crt", self._authority.certificate_pem, f"whom {name} trusts")
        if not ((own / "client.crt").exists() and (own / "client.key").exists()):
            client = new_client(self._authority, name)
            # First of all the copy: an interrupted run leaves no certificate that cannot be revoked.
            issued = self._ca / "issued" / name / f"{client.certificate.serial_number:x}.crt"
            issued.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            issued.write_bytes(client.certificate_pem)
            self._write(own / "client.key", client.key_pem, f"key of {role} {name}", KEY_MODE)
            self._write(own / "client.crt", client.certificate_pem, f"certificate of {role} {name}")
        login = CERTIFICATE_TOML.format(name=name, certificate_port=CERTIFICATE_PORT)
        self._write_missing(
            own / "credentials.toml", login.encode(), f"for --credentials, port {CERTIFICATE_PORT}", KEY_MODE
        )
        self._add_password(name, own / "password.toml")
        if self._fleet_keys:
            self._add_payload_key(role, name, own, self._fleet_keys)
        acl = acl_with(self._acl, role, name)
        if role_in_acl(self._acl, name) is None or set(acl.splitlines()) != set(self._acl.splitlines()):
            self._write(self._broker / "acl", acl.encode(), f"rights of {role} {name} added", KEY_MODE)

    def remove(self, name: str) -> None:
        """Lock an identity out: its rights, its password, and all certificates that were ever signed for it."""
        issued = sorted((self._ca / "issued" / name).glob("*.crt"))
        entries = [
            *revoked_in((self._broker / "revoked.pem").read_bytes()),
            *(revoked(certificate.read_bytes()) for certificate in issued),
        ]
        listed = new_revocations(self._authority, {entry.serial_number: entry for entry in entries}.values())
        self._write(self._broker / "revoked.pem", listed, f"certificates of {name} revoked")
        self._write(self._broker / "acl", acl_without(self._acl, name).encode(), f"rights of {name} removed", KEY_MODE)
        self._write_passwords([line for line in self._passwords if not line.startswith(f"{name}:")], f"{name} removed")
        for path in [*(self._folder / name / file for file in CLIENT_FILES), *issued]:
            if path.exists():
                path.unlink()
        for folder in (self._folder / name, self._ca / "issued" / name):
            with suppress(OSError):  # it is not there, or holds something that is not ours
                folder.rmdir()

    @property
    def _acl(self) -> str:
        path = self._broker / "acl"
        return path.read_text() if path.exists() else ""

    @property
    def _passwords(self) -> list[str]:
        return (self._broker / "passwords").read_text().splitlines()

    def _add_password(self, name: str, path: Path) -> None:
        others = [line for line in self._passwords if not line.startswith(f"{name}:")]
        if path.exists() and len(others) < len(self._passwords):
            return
        password = secrets.token_urlsafe(PASSWORD_BYTES)
        login = USER_TOML.format(name=name, password=password, password_port=PASSWORD_PORT)
        self._write(path, login.encode(), f"or this, port {PASSWORD_PORT}", KEY_MODE)
        self._write_passwords([*others, password_line(name, password)], f"{name} added")

    def _add_payload_key(self, role: Role, name: str, own: Path, fleet: TrainerKeys) -> None:
        text = key_file(fleet if role == "trainer" else fleet.of_robot(name))
        self._write_missing(own / PAYLOAD_KEY, text.encode(), f"what {role} {name} seals payloads with", KEY_MODE)
        for path in (own / "credentials.toml", own / "password.toml"):
            if "payload_key" not in (before := path.read_text()):
                after = f"{before.rstrip()}\n{PAYLOAD_KEY_LINE}"
                self._write(path, after.encode(), f"names {PAYLOAD_KEY} now", KEY_MODE)

    def _write_passwords(self, lines: list[str], what: str) -> None:
        self._write(self._broker / "passwords", "".join(f"{line}\n" for line in lines).encode(), what, KEY_MODE)

    def _open_fleet_keys(self, seal: bool) -> TrainerKeys | None:
        path = self._ca / PAYLOAD_KEY
        if not path.exists():
            if left := sorted(self._folder.glob(f"*/{PAYLOAD_KEY}")):
                raise ConfigError(f"{path} is not here, but {left[0]} is: bring it back to add to this fleet")
            if not seal:
                return None
            text = key_file(TrainerKeys.of(new_master()))
            self._write(path, text.encode(), "all payloads' key: KEEP IT OFFLINE, trainers have a copy", KEY_MODE)
        keys = read_key_file(path, "the fleet's payload key")
        if not isinstance(keys, TrainerKeys):
            raise ConfigError(f"{path} is a robot's key and not the fleet's: bring that back")
        return keys

    def _open_authority(self) -> Signed:
        certificate, key = self._ca / "ca.crt", self._ca / "ca.key"
        if certificate.exists() and not key.exists():
            raise ConfigError(f"{key} is not here: bring it back from where it is kept to sign or revoke certificates")
        if not certificate.exists():
            if key.exists():
                raise ConfigError(
                    f"{certificate} is not here, but {key} is: bring it back, or begin in an empty folder"
                )
            authority = new_authority()
            self._write(key, authority.key_pem, "the authority's key: KEEP IT OFFLINE", KEY_MODE)
            self._write(certificate, authority.certificate_pem, "the authority")
            return authority
        check_private(key, "the authority's key")
        try:
            return read_authority(certificate.read_bytes(), key.read_bytes())
        except ValueError as error:
            raise ConfigError(f"{self._ca} holds no certificate authority: {error}") from error

    def _write_missing(self, path: Path, content: bytes, what: str, mode: int = PUBLIC_MODE) -> None:
        if not path.exists():
            self._write(path, content, what, mode)

    def _write(self, path: Path, content: bytes, what: str, mode: int = PUBLIC_MODE) -> None:
        """Write a file as a whole, so that a broker that reads it again never sees half of it."""
        # A new name each time, as O_EXCL wants, so that nobody's link or left-over decides about place and mode.
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            if os.geteuid() == 0:  # the folder may have been given to mosquitto, who could not read root's files
                owner = path.parent.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
        draft.replace(path)
        until = f", valid until {last_day(content)}" if path.suffix == ".crt" else ""
        self.files.append(Written(path, what + until))
