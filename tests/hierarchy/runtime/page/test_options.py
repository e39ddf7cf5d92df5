from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from broker.errors import ConfigError, MachineError
from hierarchy.runtime.page import page_server
from hierarchy.runtime.page.options import PASSWORD_VARIABLE, PageOptions, is_loopback


@pytest.fixture(autouse=True)
def _no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)


def test_a_page_is_off_by_default() -> None:
    assert PageOptions().page == 0


def test_without_a_password_only_this_machine_gets_in() -> None:
    PageOptions(page=8080)
    PageOptions(page=8080, page_host="::1")
    with pytest.raises(ConfigError, match="--page-password-file"):
        PageOptions(page=8080, page_host="0.0.0.0")


def test_the_password_is_a_files_first_line_or_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    file.write_text("long enough\nand a note\n")
    with pytest.raises(ConfigError, match=r"--page-password-file .*password holds a secret.*chmod 600"):
        PageOptions(page=8080, page_host="0.0.0.0", page_password_file=str(file))
    file.chmod(0o600)
    options = PageOptions(page=8080, page_host="0.0.0.0", page_password_file=str(file))
    assert options.page_password == "long enough"
    monkeypatch.setenv(PASSWORD_VARIABLE, "another one")
    assert PageOptions().page_password == "another one"
    assert options.page_password == "long enough"


@pytest.mark.parametrize("content", ["", "\nsecond line", "short"])
def test_a_password_that_protects_nothing_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(ConfigError, match=r"first line is empty|characters: use"):
        PageOptions(page=8080, page_host="0.0.0.0", page_password_file=str(file))


def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        PageOptions(page=8080, page_host="0.0.0.0", page_password_file=str(tmp_path / "nowhere"))


def test_loopback_addresses() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.168.0.2", "::", "", "localhost.example.org", "evil.example")))


def test_a_page_without_nicegui_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nicegui", None)
    monkeypatch.delitem(sys.modules, "hierarchy.runtime.page.server", raising=False)
    with (
        pytest.raises(ConfigError, match=r"--page needs NiceGUI .*pip install 'reflexarc\[page\]'"),
        page_server(PageOptions(page=1), "r1"),
    ):
        """No page."""


def test_a_port_that_is_taken_may_be_free_later_and_a_host_that_is_none_never_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "long enough")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(MachineError, match=f"--page {port} at .*another program listens there; .* another --page"),
            page_server(PageOptions(page=port), "r1"),
        ):
            """No page."""
    with (
        pytest.raises(ConfigError, match=r"--page-host localhost\.invalid is no address"),
        page_server(PageOptions(page=port, page_host="localhost.invalid"), "r1"),
    ):
        """No page."""


def test_without_a_page_nothing_of_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "hierarchy.runtime.page.server", raising=False)
    with page_server(PageOptions(), "r1") as server:
        assert server is None
    assert "hierarchy.runtime.page.server" not in sys.modules
