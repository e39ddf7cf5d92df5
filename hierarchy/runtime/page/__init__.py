"""What the pages of both ends share: settings, password, server, look. NiceGUI is imported by `server` and `look`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from hierarchy.runtime.page.options import PageOptions

if TYPE_CHECKING:
    from hierarchy.runtime.page.server import PageServer


@contextmanager
def page_server(options: PageOptions, title: str) -> Iterator[PageServer | None]:
    """Take the port of the page, if there is to be one, and end its server behind it. Raises ConfigError."""
    if not options.page:
        yield None
        return
    from hierarchy.runtime.page.server import PageServer  # NiceGUI takes seconds to import, and may not be there

    with closing(PageServer(options, title=title)) as server:
        yield server
