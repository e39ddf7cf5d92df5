"""Files with secrets: who else may read or write them, and the mark of Windows editors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broker.errors import ConfigError
from broker.security.credentials import load_credentials
from broker.security.private_files import GUARDED_VARIABLE, check_private, read_private


def secret(folder: Path, mode: int, content: bytes = b"sesame\n") -> Path:
    path = folder / "secret file"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700, 0o500])
def test_a_file_of_ones_own(tmp_path: Path, mode: int) -> None:
    assert read_private(secret(tmp_path, mode), "--word") == "sesame\n"


@pytest.mark.parametrize(
    ("mode", "complaint", "mended"),
    [
        (0o640, "its group may read it", 0o600),
        (0o644, "everybody on this machine may read it", 0o600),
        (0o646, "everybody on this machine may read and write it", 0o600),
        (0o660, "its group may read and write it", 0o600),
        (0o620, "its group may write it", 0o600),
        (0o602, "everybody on this machine may write it", 0o600),
        (0o444, "everybody on this machine may read it", 0o400),
    ],
)
def test_what_others_may_do_with_it_is_said_with_what_mends_it(
    tmp_path: Path, mode: int, complaint: str, mended: int
) -> None:
    path = secret(tmp_path, mode)
    with pytest.raises(ConfigError, match=f"--word .*{complaint}.*chmod {mended:o} ") as refused:
        read_private(path, "--word")
    assert f"mode {mode:04o}" in str(refused.value)
    path.chmod(mended)
    check_private(path, "--word")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_file_of_another_user_may_be_for_our_group(tmp_path: Path) -> None:
    path = secret(tmp_path, 0o640)
    os.chown(path, 12345, -1)
    check_private(path, "--word")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"everybody on this machine may read it .*chmod 640 "):
        check_private(path, "--word")
    path.chmod(0o660)
    with pytest.raises(ConfigError, match=r"its group may read and write it|its group may write it"):
        check_private(path, "--word")


def test_a_service_manager_guards_what_it_hands_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = secret(tmp_path, 0o440)
    with pytest.raises(ConfigError):
        check_private(path, "--word")
    monkeypatch.setenv(GUARDED_VARIABLE, str(tmp_path))
    check_private(path, "--word")


def test_a_mark_of_byte_order_is_no_part_of_a_password(tmp_path: Path) -> None:
    assert read_private(secret(tmp_path, 0o600, b"\xef\xbb\xbfsesame\r\n"), "--word") == "sesame\r\n"
    with pytest.raises(ConfigError, match="save it as UTF-8"):
        read_private(secret(tmp_path, 0o600, "sesame".encode("utf-16")), "--word")


def test_a_missing_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--word .*gone: No such file"):
        check_private(tmp_path / "gone", "--word")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="name a regular one"):
        read_private(tmp_path / "pipe", "--word")


def test_credentials_with_marks_of_byte_order(tmp_path: Path) -> None:
    for name, text in (("login.toml", 'username = "r1"\r\npassword_file = "word"\r\n'), ("word", "sesame\r\n")):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        (tmp_path / name).chmod(0o600)
    assert load_credentials(str(tmp_path / "login.toml")).password == "sesame"


@pytest.mark.parametrize("name", ["client.key", "word"])
def test_keys_and_passwords_of_credentials_are_private(tmp_path: Path, name: str) -> None:
    for one in ("client.key", "client.crt", "word"):
        (tmp_path / one).write_text("sesame")
        (tmp_path / one).chmod(0o600)
    file = tmp_path / "credentials.toml"
    file.write_text('key = "client.key"\ncertificate = "client.crt"\nusername = "r1"\npassword_file = "word"\n')
    load_credentials(str(file))
    (tmp_path / name).chmod(0o640)
    with pytest.raises(ConfigError, match=f"{name} holds a secret, and its group may read it .*chmod 600"):
        load_credentials(str(file))
