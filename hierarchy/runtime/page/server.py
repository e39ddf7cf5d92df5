"""A page's server, on a thread of its own with an event loop of its own."""

from __future__ import annotations

import errno
import logging
import secrets
import socket
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial

from broker.errors import ConfigError, ReflexarcError
from broker.program.machine import refused
from broker.program.threads import LoudThread
from hierarchy.runtime.handles import raise_handle_limit
from hierarchy.runtime.page.options import PageOptions

try:
    import uvicorn
    from fastapi import FastAPI
    from nicegui import ui

    from hierarchy.runtime.page.addresses import page_urls
    from hierarchy.runtime.page.door import BACKLOG, MAX_CONNECTIONS, SHARE_OF_HANDLES, Door, DoorSocket, Served
    from hierarchy.runtime.page.gate import Gate
except ModuleNotFoundError as missing:
    raise ConfigError(f"--page needs NiceGUI ({missing}): pip install 'reflexarc[page]'") from missing

# Open pages are told to go; one that hangs should not keep the program from ending.
GRACE_SECONDS = 1
START_SECONDS = 30.0
# Commands and figures are small. More than this from a browser is an attack, or a mistake.
MAX_SOCKET_BYTES = 65_536
# A page open for hours that sleeps and wakes is built anew rather than told all that it missed.
MESSAGES_KEPT = 100

log = logging.getLogger("page")


class PageServer:
    """Serves one page; a process can have only one, because NiceGUI has one app.

    urls: where it is found. ending: set as soon as the server is to end, for whoever sends without end.
    """

    def __init__(self, options: PageOptions, *, title: str) -> None:
        """Take the port. Raises ConfigError and MachineError where that is not possible."""
        self.ending = threading.Event()
        self._password = options.page_password
        self._title = title
        self._door = Door(min(MAX_CONNECTIONS, int(SHARE_OF_HANDLES * raise_handle_limit())))
        try:
            self._socket = _listen(options.page_host, options.page, self._door)
        except OSError as error:
            raise _no_place(options, error) from error
        self._address: tuple[str, int] = self._socket.getsockname()[:2]  # the port is known by now, where any would do
        self.urls = page_urls(self._address[0], self._address[1])
        self._server: uvicorn.Server | None = None
        self._thread: LoudThread | None = None

    def start(self, build: Callable[[FastAPI], None]) -> None:
        """Serve. build: adds pages and routes. Raises ConfigError where the server does not come up."""
        # NiceGUI looks at all objects to find its server: torch warns of its deprecated ones, on the user's terminal.
        warnings.filterwarnings("ignore", message="`torch", module="nicegui")
        app = FastAPI(openapi_url=None)
        build(app)
        ui.run_with(
            app,
            title=self._title,
            dark=None,
            language="en-US",
            tailwind=False,
            storage_secret=secrets.token_hex(32),
            message_history_length=MESSAGES_KEPT,
            show_welcome_message=False,
        )
        config = uvicorn.Config(
            Served(Gate(app, password=self._password, title=self._title), self._door),
            loop="asyncio",  # uvloop accepts past the door
            backlog=BACKLOG,
            log_level="warning",
            log_config=None,
            access_log=False,
            lifespan="on",
            ws_max_size=MAX_SOCKET_BYTES,
            timeout_graceful_shutdown=GRACE_SECONDS,
            server_header=False,
        )
        logging.getLogger("uvicorn.error").addFilter(_is_no_part_of_ending)
        # Seeing and learning must not end because a page did.
        self._thread = LoudThread("page", partial(self._serve, config), restarts=True)
        self._thread.start()
        give_up = time.monotonic() + START_SECONDS
        while not (self._server and self._server.started):
            if self._thread.failures or time.monotonic() > give_up:
                raise ConfigError(f"the page at {self.urls[0]} did not start")
            time.sleep(0.02)
        log.info(
            "page at %s%s",
            " and ".join(self.urls),
            ", with a password" if self._password else ", for this machine only",
        )

    def close(self) -> None:
        """End it, and whatever is still being sent."""
        self.ending.set()
        if self._thread:
            self._thread.ending.set()
            if self._server:
                self._server.should_exit = True
            self._thread.close(GRACE_SECONDS + 4)
        self._socket.close()

    def _serve(self, config: uvicorn.Config, ending: threading.Event) -> None:
        if self._socket.fileno() < 0:  # a server that has ended closed it
            self._socket = _listen(self._address[0], self._address[1], self._door)
        self._server = uvicorn.Server(config)
        self._server.run(sockets=[self._socket])
        if not ending.is_set():
            raise RuntimeError("the page's server has ended by itself")


def _no_place(options: PageOptions, error: OSError) -> ReflexarcError:
    """Return the error of a page that cannot be served where it is to be."""
    if isinstance(error, socket.gaierror):
        return ConfigError(f"--page-host {options.page_host} is no address of this machine: {error.strerror}")
    reasons = {
        errno.EADDRINUSE: "another program listens there; end it, or choose another --page",
        errno.EADDRNOTAVAIL: "this machine does not have that address; choose another --page-host",
        errno.EACCES: "this user may not listen there; choose a --page from 1024 on",
    }
    where = f"--page {options.page} at --page-host {options.page_host}"
    return refused(where, error, reasons.get(error.errno or 0, error.strerror))


def _listen(host: str, port: int, door: Door) -> DoorSocket:
    listener = DoorSocket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.door = door
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def _is_no_part_of_ending(record: logging.LogRecord) -> bool:
    """Whether it is worth telling: that an open page was cut off at the end is not."""
    return "graceful shutdown exceeded" not in record.getMessage() and "ASGI callable" not in record.getMessage()
