"""The file with the key of class names, and the tokens that it makes."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from broker.errors import ConfigError
from broker.security import names_key
from broker.security.names_key import SivCipher, load_names, load_names_key, make_names_key
from broker.wire.names import PLAIN_NAMES

# Bytes 0 to 63 as key. A change here would part fleets of two versions.
TOKEN_OF_MUG = "~oprCC5B1MWy0mlMlqnua0IsyJYKDr0bATKp-mbXuwZjcVi-SEkNvameRhszgHIk"


def test_tokens_stay_what_they_are() -> None:
    cipher = SivCipher(bytes(range(64)))
    assert cipher.token("mug") == TOKEN_OF_MUG
    assert cipher.name(TOKEN_OF_MUG) == "mug"
    data = base64.urlsafe_b64decode(TOKEN_OF_MUG[1:] + "=")
    assert (len(data), cipher.fingerprint) == (47, "9796e97405d0fb31")


def test_other_bits_that_stand_for_nothing_are_no_other_token() -> None:
    cipher = SivCipher(bytes(64))
    alike = [
        one
        for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        if cipher.name(one := cipher.token("mug")[:-1] + last) == "mug"
    ]
    assert alike == [cipher.token("mug")]


def test_a_key_is_made_for_its_user_alone_and_never_twice(tmp_path: Path) -> None:
    one, two = tmp_path / "one.key", tmp_path / "two.key"
    make_names_key(one)
    make_names_key(two)
    assert one.stat().st_mode & 0o777 == 0o600
    assert load_names_key(one).token("mug") == load_names_key(str(one)).token("mug") != load_names_key(two).token("mug")
    with pytest.raises(ConfigError, match=r"one\.key exists already: name a new file"):
        make_names_key(one)
    with pytest.raises(ConfigError, match=r"missing.key"):
        make_names_key(tmp_path / "nowhere" / "missing.key")


def test_without_a_file_names_are_what_they_are() -> None:
    assert load_names("") is PLAIN_NAMES


@pytest.mark.parametrize("content", [b"", b"# a comment\n", b"AAAA\n", b"\xff\n", b"A" * 86 + b"\nmore\n", b"!" * 86])
def test_a_file_that_holds_no_key_is_said_to(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "names.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"--names-key .*(holds no key of class names: copy|no text|not a text)"):
        load_names(str(path))


def test_a_key_that_others_may_read_is_refused_with_what_mends_it(tmp_path: Path) -> None:
    make_names_key(path := tmp_path / "names.key")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"holds a secret, and everybody on this machine may read it .* chmod 600"):
        load_names(str(path))


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"does not exist: copy the fleet's key there, or make one with robot-edge n"):
        load_names(str(tmp_path / "names.key"))


def test_without_cryptography_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_key, "find_spec", lambda _: None)
    for use in (lambda: load_names("x"), lambda: make_names_key(tmp_path / "x")):
        with pytest.raises(ConfigError, match=r"pip install 'reflexarc\[encryption\]'"):
            use()
    assert load_names("") is PLAIN_NAMES
