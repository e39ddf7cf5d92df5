"""Settings of a page: where it listens and who may see it."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass

from broker.errors import ConfigError
from broker.program.paths import typed_path
from broker.security.private_files import read_private
from hierarchy.runtime.command_line import check_range

PASSWORD_VARIABLE = "REFLEXARC_PAGE_PASSWORD"  # noqa: S105, the name is no secret
# Whoever may guess a few times a minute needs years for a random one of these, but not for a shorter one.
MIN_PASSWORD = 8


@dataclass(frozen=True, kw_only=True)
class PageOptions:
    """A page in the browser. Both ends have one."""

    page: int = 0
    """Port of a page in the browser (docs/pages.md); 0 for none. It needs `pip install 'reflexarc[page]'`."""
    page_host: str = "127.0.0.1"
    """Address that the page listens at: this machine only, or 0.0.0.0 for the network too, which takes a password."""
    page_password_file: str = ""
    """File whose first line is the page's password, and which nobody else may read. Default: the environment variable
    REFLEXARC_PAGE_PASSWORD."""

    def __post_init__(self) -> None:
        check_range("page", self.page, 0, 65_535)
        if self.page and not is_loopback(self.page_host) and not self.page_password:
            raise ConfigError(
                f"--page-host {self.page_host} lets others see the page, and give commands: write a password into a "
                f"file for --page-password-file, or into {PASSWORD_VARIABLE}"
            )

    @property
    def page_password(self) -> str:
        """The page's password; empty for none. Raises ConfigError."""
        password = os.environ.get(PASSWORD_VARIABLE, "")
        if self.page_password_file:
            text = read_private(typed_path(self.page_password_file), "--page-password-file")
            password = (text.splitlines() or [""])[0].strip()
            if not password:
                raise ConfigError(f"--page-password-file {self.page_password_file}: its first line is empty")
        if password and len(password) < MIN_PASSWORD:
            raise ConfigError(f"the page's password has {len(password)} characters: use {MIN_PASSWORD} or more")
        return password


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach that address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
