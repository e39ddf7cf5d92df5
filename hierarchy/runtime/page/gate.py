"""Who may see a page: nothing behind it is reached without the password. ASGI, and knows nothing of what it guards.

It also turns away what other pages in the same browser ask for (foreign Origin), and, where there is no password, what
comes under a name that is not this machine's: a foreign site may let its own name point here (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import html
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hierarchy.runtime.page.options import is_loopback

COOKIE = "reflexarc"
# A login lasts a working day; who uses it longer logs in again.
SESSION_SECONDS = 12 * 3600.0
MAX_SESSIONS = 64
# Wrong passwords from one address, and from all of them, within so many seconds.
TRIES, ALL_TRIES, WITHIN_SECONDS = 5, 50, 60.0
MAX_ADDRESSES = 1000
# A login form has a password and nothing else.
MAX_FORM_BYTES = 4096
# A browser sends it at once. Who takes longer holds a connection that others wait for.
FORM_SECONDS = 10.0

NO_STORE = {"cache-control": "no-store"}
SECURITY_HEADERS = {
    # The page may load what it serves itself, and nothing else. NiceGUI's templates have scripts within.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    # Not no-referrer: with that Chromium gives a form's own origin as null, and the login would look foreign.
    "referrer-policy": "same-origin",
}


class Attempts:
    """Counts wrong passwords by address, for as long as they matter."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque(maxlen=ALL_TRIES)

    def allowed(self, address: str) -> bool:
        """Whether that address may try once more."""
        since = self._clock() - WITHIN_SECONDS
        own = sum(when > since for when in self._wrong.get(address, ()))
        return own < TRIES and sum(when > since for when in self._all) < ALL_TRIES

    def wrong(self, address: str) -> None:
        """Note a wrong password."""
        self._wrong.setdefault(address, deque(maxlen=TRIES)).append(self._clock())
        self._wrong.move_to_end(address)
        while len(self._wrong) > MAX_ADDRESSES:
            self._wrong.popitem(last=False)
        self._all.append(self._clock())


class Gate:
    """Lets requests and web sockets through to an app if they may be.

    password: empty for a page that only this machine reaches. title: stands over the login form.
    """

    def __init__(self, app: ASGIApp, *, password: str, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.app = app
        self._password = password.encode()
        self._title = title
        self._clock = clock
        self._attempts = Attempts(clock)
        self._sessions: OrderedDict[str, float] = OrderedDict()  # until when each is good

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the app answer."""
        if scope["type"] != "lifespan":
            send = _with_headers(send)
            refusal = await self._refusal(HTTPConnection(scope), receive)
            if refusal and scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            if refusal:
                await refusal(scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _refusal(self, asked: HTTPConnection, receive: Receive) -> Response | None:
        """Return what is answered instead of the app; None where the app may answer."""
        scope, headers = asked.scope, asked.headers
        if not _is_from_here(asked, any_name=bool(self._password)):
            return _plain(403, "This page does not answer to other sites, or under that name.")
        # Who has no token cannot learn one from how long this takes: they are random, of 256 bits.
        if not self._password or self._sessions.get(asked.cookies.get(COOKIE, ""), 0.0) > self._clock():
            return None
        if scope["type"] == "websocket":
            return _plain(403, "")
        if scope["path"] == "/login" and scope["method"] == "POST":
            return await self._log_in(asked, receive)
        if "authorization" in headers:  # Prometheus and its like send the password with each request
            problem = self._problem(asked, _given_by(headers["authorization"]))
            return _plain(_status(problem), problem) if problem else None
        if "text/html" in headers.get("accept", "") and scope["method"] == "GET":
            return self._form(200 if scope["path"] == "/login" else 401)
        return _plain(401, "The password is missing.")

    async def _log_in(self, asked: HTTPConnection, receive: Receive) -> Response:
        try:
            body = await asyncio.wait_for(_body(receive), FORM_SECONDS)
        except asyncio.TimeoutError:
            return _plain(408, "The password took too long to come.")
        given = parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]
        if problem := self._problem(asked, given):
            return self._form(_status(problem), problem)
        token = secrets.token_urlsafe(32)
        self._sessions[token] = self._clock() + SESSION_SECONDS
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        cookie = f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={SESSION_SECONDS:.0f}"
        return Response(status_code=303, headers={"location": "/", "set-cookie": cookie, **NO_STORE})

    def _problem(self, asked: HTTPConnection, given: str) -> str:
        """Return what is wrong with a password, for people; empty where it is right."""
        address = asked.client.host if asked.client else ""
        if not self._attempts.allowed(address):
            return "Too many wrong passwords. Wait a minute."
        if hmac.compare_digest(given.encode("utf-8", "replace"), self._password):
            return ""
        self._attempts.wrong(address)
        return "That is not the password."

    def _form(self, status: int, problem: str = "") -> Response:
        form = FORM.replace("TITLE", html.escape(self._title)).replace("PROBLEM", html.escape(problem))
        return HTMLResponse(form, status, NO_STORE)


def _is_from_here(asked: HTTPConnection, *, any_name: bool) -> bool:
    host, origin = asked.headers.get("host", ""), asked.headers.get("origin", "")
    if origin and urlsplit(origin).netloc != host:
        return False
    return any_name or is_loopback(urlsplit(f"//{host}").hostname or "")


def _plain(status: int, text: str) -> Response:
    return PlainTextResponse(text, status, NO_STORE)


def _status(problem: str) -> int:
    return 429 if problem.startswith("Too") else 401


def _given_by(authorization: str) -> str:
    """Return the password in an Authorization header: Bearer, or Basic with any name."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2] if scheme.lower() == "basic" else ""
    except ValueError:
        return ""


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message.setdefault("headers", [])
            MutableHeaders(scope=message).update(SECURITY_HEADERS)
        await send(message)

    return sending


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body") or len(body) > MAX_FORM_BYTES:
            return body[:MAX_FORM_BYTES]


FORM = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE · Reflexarc</title><style>
:root { color-scheme: light dark; --back: #f4f6f8; --card: #fff; --line: #dfe4ea; --text: #1c2733; --main: #0b7a75;
  --bad: #b3362e; }
@media (prefers-color-scheme: dark) {
  :root { --back: #10161c; --card: #182129; --line: #2a3640; --text: #e6edf3; --main: #35b8b0;
  --bad: #f0766e; } }
body { margin: 0; min-height: 100vh; display: grid; place-items: center; background: var(--back); color: var(--text);
  font: 16px/1.5 Roboto, system-ui, sans-serif; }
form { width: min(20rem, 82vw); padding: 1.5rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; display: grid; gap: .75rem; }
h1 { margin: 0; font-size: 1.15rem; } p { margin: 0; color: var(--bad); } label { font-weight: 600; }
:focus-visible { outline: 3px solid var(--main); outline-offset: 2px; } p:empty { display: none; }
input, button { font: inherit; padding: .6rem .75rem; border-radius: 8px; border: 1px solid var(--line);
  background: var(--back); color: var(--text); }
button { background: var(--main); border-color: var(--main); color: var(--card); font-weight: 600; cursor: pointer; }
</style></head><body><main><form method="post" action="/login"><h1>TITLE</h1>
<label for="password">Password</label>
<input type="password" id="password" name="password" aria-describedby="problem" autocomplete="current-password"
 autofocus required><p id="problem" role="alert">PROBLEM</p><button>Log in</button></form></main></body></html>
"""
