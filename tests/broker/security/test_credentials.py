from __future__ import annotations

from pathlib import Path

import pytest

from broker.errors import ConfigError
from broker.security.credentials import ENVIRONMENT_PREFIX, KEYS, Credentials, load_credentials
from broker.security.tls import credentials_for


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in KEYS:
        monkeypatch.delenv(ENVIRONMENT_PREFIX + key.upper(), raising=False)


@pytest.fixture(name="folder")
def _folder(tmp_path: Path) -> Path:
    for name in ("ca.crt", "client.crt", "client.key"):
        (tmp_path / name).write_text("not looked into here")
    (tmp_path / "word").write_text("sesame\n")
    for name in ("client.key", "word"):
        (tmp_path / name).chmod(0o600)
    return tmp_path


def written(folder: Path, text: str, mode: int = 0o600) -> str:
    path = folder / "credentials.toml"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_paths_are_relative_to_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    file = written(folder, 'ca = "ca.crt"\ncertificate = "client.crt"\nkey = "client.key"\n')
    assert load_credentials(file) == Credentials(
        ca=folder / "ca.crt", certificate=folder / "client.crt", key=folder / "client.key"
    )
    file = written(folder, f'ca = "{folder}/ca.crt"\nusername = "r1"\npassword_file = "word"\n')
    assert load_credentials(file) == Credentials(ca=folder / "ca.crt", username="r1", password="sesame")


def test_the_environment_says_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_credentials("") == Credentials()
    monkeypatch.setenv("REFLEXARC_MQTT_CA", str(folder / "ca.crt"))
    monkeypatch.setenv("REFLEXARC_MQTT_USERNAME", "r1")
    monkeypatch.setenv("REFLEXARC_MQTT_PASSWORD_FILE", str(folder / "word"))
    assert load_credentials("") == Credentials(ca=folder / "ca.crt", username="r1", password="sesame")
    monkeypatch.delenv("REFLEXARC_MQTT_PASSWORD_FILE")
    monkeypatch.setenv("REFLEXARC_MQTT_PASSWORD", "mellon")
    assert load_credentials("").password == "mellon"


def test_a_file_wins_over_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFLEXARC_MQTT_USERNAME", "r1")
    monkeypatch.setenv("REFLEXARC_MQTT_PASSWORD", "mellon")
    assert load_credentials(written(folder, 'username = "r2"\n')) == Credentials(username="r2")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('user = "r1"', "unknown key 'user'; use ca, certificate, key, password_file, payload_key, username, password"),
        ('username = ""', "username must be a text that is not empty"),
        ("username = 1", "username must be a text"),
        ("username", "credentials.toml: "),
        ('password = "sesame"', "a password without a username"),
        ('username = "r1"\npassword = "sesame"\npassword_file = "word"', "one of them is too many"),
        ('username = "r1"\npassword_file = "gone"', "password_file .*gone: No such file"),
        ('ca = "gone.crt"', "ca .*gone.crt: No such file"),
        ('ca = "."', "ca .*: Is a directory"),
        ('certificate = "client.crt"', "a certificate without its key"),
        ('key = "client.key"', "a key without its certificate"),
        ('username = "r1"\npassword_file = "empty"', "the password is empty"),
        ('username = "r1"\npassword_file = "binary"', "is not a text in UTF-8"),
    ],
)
def test_what_cannot_be_is_said(folder: Path, text: str, complaint: str) -> None:
    (folder / "empty").write_text("\n")
    (folder / "binary").write_bytes(b"\xff\xfe")
    for name in ("empty", "binary"):
        (folder / name).chmod(0o600)
    with pytest.raises(ConfigError, match=complaint) as error:
        load_credentials(written(folder, text))
    assert "sesame" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--credentials .*missing.toml: No such file"):
        load_credentials(str(tmp_path / "missing.toml"))


def test_a_password_that_everybody_can_read(folder: Path) -> None:
    text = 'username = "r1"\npassword = "sesame"\n'
    with pytest.raises(ConfigError, match=r"everybody on this machine may read it .*: chmod 600 ") as error:
        load_credentials(written(folder, text, mode=0o644))
    assert "sesame" not in str(error.value)
    with pytest.raises(ConfigError, match=r"its group may read it .*: chmod 600 "):
        load_credentials(written(folder, text, mode=0o640))
    assert load_credentials(written(folder, text, mode=0o600)).password == "sesame"
    assert load_credentials(written(folder, 'username = "r1"\n', mode=0o644)).username == "r1"


def test_a_password_is_not_shown(folder: Path) -> None:
    credentials = load_credentials(written(folder, 'username = "r1"\npassword = "sesame"\n'))
    assert credentials.password == "sesame"
    assert "r1" in repr(credentials)
    assert "sesame" not in f"{credentials} {credentials!r}"


def test_certificates_need_tls_and_must_be_some(folder: Path) -> None:
    file = written(folder, 'ca = "ca.crt"\n')
    with pytest.raises(ConfigError, match="encrypts nothing: use mqtts://"):
        credentials_for("mqtt://127.0.0.1", file)
    with pytest.raises(ConfigError, match=r"ca .*ca.crt holds no certificate in PEM format"):
        credentials_for("mqtts://127.0.0.1", file)
    file = written(folder, 'certificate = "client.crt"\nkey = "client.key"\n')
    with pytest.raises(ConfigError, match="do not belong together, or are not in PEM format"):
        credentials_for("mqtts://127.0.0.1", file)
    assert credentials_for("mqtt://127.0.0.1", written(folder, 'username = "r1"\n')).username == "r1"
