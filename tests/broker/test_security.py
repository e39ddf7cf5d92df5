"""A provisioned mosquitto lets in whom it should, to what is theirs, and whoever is refused is told what to do."""

from __future__ import annotations

import logging
import socket
import ssl
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from broker.errors import AccessDenied, ConfigError
from broker.link import echo
from broker.link import mqtt as link_module
from broker.link.inbox import Delivery
from broker.link.mqtt import MqttLink
from broker.security.certificates import Signed, new_authority, new_client, new_server
from broker.security.credentials import Credentials, load_credentials
from broker.security.provision import provision
from broker.wire.topics import ANYONE, cloud_metrics_topic, topic
from tests.broker.secure_broker import TIMEOUT_S, SecureBroker, authority_in

pytestmark = [pytest.mark.mosquitto, pytest.mark.slow]  # brokers of its own

Connect = Callable[..., MqttLink]


@pytest.fixture(autouse=True)
def _reconnect_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "RECONNECT_SECONDS", (1, 1))


@pytest.fixture(name="broker", scope="module")
def _broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    folder = tmp_path_factory.mktemp("provisioned")
    provision(folder, robots=["r1", "r2"], trainers=["t1"])
    broker = SecureBroker(folder)
    yield broker
    broker.stop()


@pytest.fixture(name="connect")
def _connect() -> Iterator[Connect]:
    """Return what makes links that a test need not close."""
    with ExitStack() as links:

        def connect(url: str, credentials: Credentials, name: str = "test", own: str | None = None) -> MqttLink:
            link = MqttLink(url, name, will=(own, b"gone") if own else None, credentials=credentials)
            links.callback(link.close)
            return link

        yield connect


def login(broker: SecureBroker, name: str, how: str = "credentials") -> Credentials:
    return load_credentials(str(broker.folder / name / f"{how}.toml"))


def url_for(broker: SecureBroker, how: str) -> str:
    return broker.certificate_url if how == "credentials" else broker.password_url


def wait_until(what: str, condition: Callable[[], bool], link: MqttLink | None = None) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {TIMEOUT_S} s; {link.problem if link else ''}"
        time.sleep(0.01)


def connected(link: MqttLink) -> MqttLink:
    wait_until("connection", lambda: link.connected, link)
    return link


def refused(link: MqttLink, complaint: str) -> None:
    """Wait until the link says so, and see that it never came up."""
    wait_until(f"complaint {complaint!r}", lambda: complaint in link.problem, link)
    assert (link.connections, link.connected) == (0, False)


def receive(link: MqttLink) -> Delivery:
    delivery = link.receive(TIMEOUT_S)
    assert delivery is not None, f"nothing came within {TIMEOUT_S} s"
    return delivery


def save(folder: Path, signed: Signed) -> tuple[Path, Path]:
    certificate, key = folder / "some.crt", folder / "some.key"
    certificate.write_bytes(signed.certificate_pem)
    key.write_bytes(signed.key_pem)
    return certificate, key


# What is allowed


@pytest.mark.parametrize("how", ["credentials", "password"])
def test_a_robot_and_its_trainer_understand_each_other(broker: SecureBroker, connect: Connect, how: str) -> None:
    url = url_for(broker, how)
    own, state = topic("robot", "r1", "state"), topic("trainer", "t1", "state")
    trainer = connected(connect(url, login(broker, "t1", how), own=state))
    trainer.subscribe(topic("robot", ANYONE, "state"))
    trainer.subscribe(topic("robot", ANYONE, "activations"))
    trainer.publish(state, b"here", qos=1, retain=True)
    robot = connected(connect(url, login(broker, "r1", how), own=own))
    for one in (topic("robot", "r1", "receipt"), topic("trainer", ANYONE, "state")):
        robot.subscribe(one)
    assert receive(robot) == Delivery(state, b"here", retained=True)
    robot.publish(own, b"online", qos=1, retain=True)
    robot.publish(topic("robot", "r1", "activations"), b"codes", qos=1)
    came = receive(trainer)
    if came.retained:  # from the other way to log in
        came = receive(trainer)
    assert [came.payload, receive(trainer).payload] == [b"online", b"codes"]
    trainer.publish(topic("robot", "r1", "receipt"), b"taken", qos=1)
    assert receive(robot).payload == b"taken"
    assert robot.receive(0) is None


def test_a_trainer_may_be_left_the_rights_to_some_robots(tmp_path: Path, connect: Connect) -> None:
    """As docs/scale.md advises for several trainers: the wildcard that it subscribes to stays."""
    provision(tmp_path, robots=["r1", "r2"], trainers=["t1"])
    rules = tmp_path / "broker" / "acl"
    rules.write_text(rules.read_text().replace("/robot/+/", "/robot/r1/"))
    broker = SecureBroker(tmp_path)
    try:
        trainer = connected(connect(broker.certificate_url, login(broker, "t1")))
        trainer.subscribe(topic("robot", ANYONE, "activations"))
        for name in ("r2", "r1"):
            robot = connected(connect(broker.certificate_url, login(broker, name)))
            robot.publish(topic("robot", name, "activations"), b"codes", qos=1)
            wait_until("message", lambda: "Received PUBLISH" in broker.log)  # r2's first
        assert receive(trainer).topic == topic("robot", "r1", "activations")
    finally:
        broker.stop()


def test_a_silent_link_can_be_dialled_again(broker: SecureBroker, connect: Connect) -> None:
    link = connected(connect(broker.certificate_url, login(broker, "r1")))
    link.reconnect()
    wait_until("new connection", lambda: link.connections == 2 and link.connected, link)
    link.subscribe(topic("robot", "r1", "state"))
    link.publish(topic("robot", "r1", "state"), b"again", qos=1)
    while receive(link).payload != b"again":
        pass


def test_what_newer_pythons_insist_on(broker: SecureBroker) -> None:
    context = ssl.create_default_context(cafile=broker.folder / "r1" / "ca.crt")
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    for host in ("localhost", "127.0.0.1"):
        with (
            socket.create_connection(("127.0.0.1", broker.password_port)) as plain,
            context.wrap_socket(plain, server_hostname=host) as encrypted,
        ):
            assert encrypted.version() == "TLSv1.3"


def test_an_older_tls_is_refused(broker: SecureBroker) -> None:
    context = ssl.create_default_context(cafile=broker.folder / "r1" / "ca.crt")
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection(("127.0.0.1", broker.password_port)) as plain,
        pytest.raises(ssl.SSLError, match="alert protocol version"),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


# Whom nobody lets in


def test_a_broker_signed_by_somebody_else(broker: SecureBroker, connect: Connect, tmp_path: Path) -> None:
    certificate, _ = save(tmp_path, new_authority())
    wrong = replace(login(broker, "r1"), ca=certificate)
    refused(connect(broker.certificate_url, wrong), "name the right ca in the --credentials file")
    # Without a ca of ours the system's authorities count, and none of them signed it.
    refused(connect(broker.certificate_url, Credentials()), "name the right ca in the --credentials file")


def test_an_expired_certificate_of_ours(broker: SecureBroker, connect: Connect, tmp_path: Path) -> None:
    certificate, key = save(tmp_path, new_client(authority_in(broker.folder), "r1", days=-1))
    expired = replace(login(broker, "r1"), certificate=certificate, key=key)
    refused(connect(broker.certificate_url, expired), "our certificate has expired")


def test_a_certificate_of_another_fleet(broker: SecureBroker, connect: Connect, tmp_path: Path) -> None:
    certificate, key = save(tmp_path, new_client(new_authority(), "r1"))
    foreign = replace(login(broker, "r1"), certificate=certificate, key=key)
    refused(connect(broker.certificate_url, foreign), "one for another broker")


def test_a_brokers_certificate_is_none_for_a_robot(broker: SecureBroker, connect: Connect, tmp_path: Path) -> None:
    certificate, key = save(tmp_path, new_server(authority_in(broker.folder), ["r1"]))
    other_purpose = replace(login(broker, "r1"), certificate=certificate, key=key)
    refused(connect(broker.certificate_url, other_purpose), "our certificate is not one for clients")


@pytest.mark.parametrize("impostor", ["expired", "other host", "a robot's"])
def test_a_broker_with_a_certificate_that_does_not_do(impostor: str, connect: Connect, tmp_path: Path) -> None:
    provision(tmp_path, robots=["r1"])
    authority = authority_in(tmp_path)
    signed, complaint = {
        "expired": (new_server(authority, ["localhost"], days=-1), "its certificate has expired; renew it there"),
        "other host": (
            new_server(authority, ["broker.example"]),
            "its certificate is for other names than 'localhost'; use one of those in --broker",
        ),
        "a robot's": (new_client(authority, "localhost"), "cannot be trusted: unsuitable certificate purpose"),
    }[impostor]
    (tmp_path / "broker" / "server.crt").write_bytes(signed.certificate_pem)
    (tmp_path / "broker" / "server.key").write_bytes(signed.key_pem)
    broker = SecureBroker(tmp_path)
    try:
        refused(connect(broker.certificate_url, login(broker, "r1")), complaint)
    finally:
        broker.stop()


def test_a_wrong_password(broker: SecureBroker, connect: Connect) -> None:
    right = login(broker, "r1", "password")
    for wrong in (replace(right, password="wrong"), replace(right, username="r9")):
        refused(
            connect(broker.password_url, wrong), f"user {wrong.username!r} is unknown or the password is wrong; correct"
        )


def test_nobody_in_particular(broker: SecureBroker, connect: Connect) -> None:
    anonymous = Credentials(ca=broker.folder / "r1" / "ca.crt")
    refused(connect(broker.certificate_url, anonymous), "it wants a client certificate and got none: name certificate")
    refused(connect(broker.password_url, anonymous), "it wants a user and password, or a certificate; name them")


def test_a_password_is_no_certificate(broker: SecureBroker, connect: Connect) -> None:
    link = connect(broker.certificate_url, login(broker, "r1", "password"))
    refused(link, "it wants a client certificate")
    assert "port 8883 take certificates (credentials.toml) and 8884 passwords (password.toml)" in link.problem


def test_a_certificate_is_no_password(broker: SecureBroker, connect: Connect) -> None:
    link = connect(broker.password_url, login(broker, "r1"))
    refused(link, "it wants a user and password there, and takes no certificate; `local-broker provision` has port")


def test_plain_text_on_the_tls_port(broker: SecureBroker, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    plain = f"mqtt://127.0.0.1:{broker.certificate_port}"
    refused(connect(plain, Credentials()), "perhaps it speaks TLS there; then use mqtts:// and --credentials")
    with pytest.raises(ConfigError, match="encrypts nothing: use mqtts://"):
        connect(plain, login(broker, "r1"))


def test_tls_on_the_plain_port(broker_url: str, broker: SecureBroker, connect: Connect) -> None:
    port = broker_url.rpartition(":")[2]
    refused(connect(f"mqtts://localhost:{port}", login(broker, "r1")), f"is {port} its plain port?")


def test_a_name_that_no_one_knows(broker: SecureBroker, connect: Connect) -> None:
    for host in ("no-such-broker.invalid", "a..b"):
        refused(connect(f"mqtts://{host}", login(broker, "r1")), f"the name {host!r} is unknown here")


# What is somebody else's


def test_a_robot_cannot_speak_for_another(broker: SecureBroker, connect: Connect) -> None:
    trainer = connected(connect(broker.certificate_url, login(broker, "t1")))
    trainer.subscribe(topic("robot", ANYONE, "activations"))
    trainer.subscribe(topic("robot", ANYONE, "metrics"))
    granted = trainer._subscriptions.is_granted
    wait_until("subscription", lambda: granted(topic("robot", ANYONE, "metrics")), trainer)
    r1 = connected(connect(broker.certificate_url, login(broker, "r1")))
    for name in ("r2", "r1"):
        r1.publish(topic("robot", name, "metrics"), f"written by r1 as {name}".encode(), qos=1)
        r1.publish(topic("robot", name, "activations"), f"written by r1 as {name}".encode(), qos=1)
    assert [receive(trainer) for _ in range(2)] == [
        Delivery(topic("robot", "r1", channel), b"written by r1 as r1", retained=False)
        for channel in ("metrics", "activations")
    ]
    assert trainer.receive(0) is None
    assert "Denied PUBLISH from" in broker.log, "the operator sees it"


def test_a_robot_cannot_write_receipts_nor_be_a_trainer(broker: SecureBroker, connect: Connect) -> None:
    r2 = connected(connect(broker.certificate_url, login(broker, "r2")))
    r2.subscribe(topic("robot", "r2", "receipt"))
    r2.subscribe(topic("trainer", ANYONE, "metrics"))
    r2.subscribe(cloud_metrics_topic("r2", ANYONE))
    r1 = connected(connect(broker.certificate_url, login(broker, "r1")))
    r1.publish(topic("robot", "r2", "receipt"), b"forged", qos=1)
    r1.publish(topic("trainer", "t1", "metrics"), b"forged", qos=1)
    r1.publish(cloud_metrics_topic("r2", "t1"), b"forged", qos=1)
    r1.publish(topic("robot", "r1", "metrics"), b"the last that r1 says", qos=1)
    trainer = connected(connect(broker.certificate_url, login(broker, "t1")))
    trainer.publish(cloud_metrics_topic("r2", "t9"), b"under another trainer's name", qos=1)
    trainer.publish(cloud_metrics_topic("r2", "t1"), b"genuine", qos=1)
    assert receive(r2) == Delivery(cloud_metrics_topic("r2", "t1"), b"genuine", retained=False)
    trainer.publish(topic("robot", "r2", "receipt"), b"genuine", qos=1)
    assert receive(r2).payload == b"genuine"


def test_a_robot_cannot_read_what_is_for_another(broker: SecureBroker, connect: Connect) -> None:
    r2 = connected(connect(broker.certificate_url, login(broker, "r2")))
    r2.publish(topic("robot", "r2", "state"), b"retained", qos=1, retain=True)
    r1 = connected(connect(broker.certificate_url, login(broker, "r1")))
    r1.subscribe("#")
    r1.subscribe(topic("robot", ANYONE, "receipt"))
    r1.subscribe(cloud_metrics_topic(ANYONE, ANYONE))
    trainer = connected(connect(broker.certificate_url, login(broker, "t1")))
    r1.publish(topic("robot", "r1", "state"), b"all subscriptions are in force", qos=1)
    while receive(r1).payload != b"all subscriptions are in force":
        pass
    r2.publish(topic("robot", "r2", "activations"), b"for the trainer only", qos=1)
    for name in ("r2", "r1"):
        trainer.publish(cloud_metrics_topic(name, "t1"), b"for " + name.encode(), qos=1)
        trainer.publish(topic("robot", name, "receipt"), b"for " + name.encode(), qos=1)
    seen = {receive(r1)}
    while delivery := r1.receive(0.5):
        seen.add(delivery)
    own = (topic("robot", "r1", "receipt"), cloud_metrics_topic("r1", "t1"))
    assert seen == {Delivery(one, b"for r1", retained=False) for one in own}


@pytest.mark.parametrize("how", ["credentials", "password"])
@pytest.mark.parametrize("own", [topic("robot", "r2", "state"), topic("trainer", "t1", "state")])
def test_somebody_elses_credentials_are_noticed(
    broker: SecureBroker, connect: Connect, how: str, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(echo, "ECHO_SECONDS", 0.5)
    link = connected(connect(url_for(broker, how), login(broker, "r1", how), own=own))
    link.subscribe(own)
    with pytest.raises(AccessDenied, match="use the --credentials that belong to this name") as denied:
        # As with each heartbeat. It never gets as far as to return something true.
        wait_until("denial", lambda: link.publish(own, b"it is me", qos=1) and bool(link.receive(0.05)) and False)
    assert own in str(denied.value)
    assert ("user 'r1'" if how == "password" else "these credentials") in str(denied.value)


def test_the_right_credentials_are_not_suspected(
    broker: SecureBroker, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(echo, "ECHO_SECONDS", 0.2)
    own = topic("trainer", "t1", "state")
    link = connected(connect(broker.certificate_url, login(broker, "t1"), own=own))
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        link.publish(own, b"it is me", qos=1, retain=True)
        assert link.receive(0.05) is None, "nobody subscribed to it but the link itself"


# Locking out


@pytest.mark.parametrize("how", ["credentials", "password"])
def test_a_removed_robot_is_locked_out_of_a_running_broker(tmp_path: Path, connect: Connect, how: str) -> None:
    provision(tmp_path, robots=["r1", "r2"], trainers=["t1"])
    broker = SecureBroker(tmp_path)
    try:
        (tmp_path / "r2").rename(tmp_path / "stolen")
        stolen = login(broker, "stolen", how)
        link = connected(connect(url_for(broker, how), stolen))
        provision(tmp_path, removed=["r2"])
        broker.read_again()
        trainer = connected(connect(url_for(broker, how), login(broker, "t1", how)))
        trainer.subscribe(topic("robot", ANYONE, "metrics"))
        honest = connected(connect(url_for(broker, how), login(broker, "r1", how)))
        link.publish(topic("robot", "r2", "metrics"), b"from the thief", qos=1)
        honest.publish(topic("robot", "r1", "metrics"), b"from r1", qos=1)
        assert receive(trainer).payload == b"from r1"
        complaint = "our certificate was revoked" if how == "credentials" else "is unknown or the password is wrong"
        refused(connect(url_for(broker, how), stolen), complaint)
    finally:
        broker.stop()


# What must not be shown


def test_a_password_in_plain_text_is_warned_about(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    secret = Credentials(username="r1", password="secret-word")
    with caplog.at_level(logging.WARNING):
        connect("mqtt://127.0.0.1:9", secret)
        assert caplog.text == ""
        connect("mqtt://broker.invalid", secret)
    assert "the password goes to broker.invalid:1883 unencrypted" in caplog.text
    assert "secret-word" not in caplog.text


def test_a_robot_may_tell_home_assistant_of_itself_where_a_pattern_says_so(tmp_path: Path, connect: Connect) -> None:
    """As docs/how-to/home-assistant.md advises; `provision` leaves what was added by hand."""
    provision(tmp_path, robots=["r1", "r2"], trainers=["t1"])
    rules = tmp_path / "broker" / "acl"
    added = "pattern write homeassistant/device/reflexarc_%u/config\n\nuser r2\ntopic read homeassistant/#\n"
    rules.write_text(f"{rules.read_text()}{added}")
    broker = SecureBroker(tmp_path)
    try:
        listener = connected(connect(broker.certificate_url, login(broker, "r2"), own=topic("robot", "r2", "state")))
        listener.subscribe("homeassistant/#")
        robot = connected(connect(broker.certificate_url, login(broker, "r1"), own=topic("robot", "r1", "state")))
        for name in ("reflexarc_r2", "reflexarc_r1"):  # the first of them is another's
            robot.publish(f"homeassistant/device/{name}/config", b"{}", qos=1, retain=True)
        assert receive(listener).topic == "homeassistant/device/reflexarc_r1/config"
    finally:
        broker.stop()
    provision(tmp_path, robots=["r1"])
    assert "pattern write homeassistant" in rules.read_text()
