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
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

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

Headers = list[tuple[bytes, bytes]]

# The page may load what it serves itself, and nothing else. NiceGUI's templates have scripts within.
SECURITY_HEADERS: Headers = [
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    # Not no-referrer: with that Chromium gives a form's own origin as null, and the login would look foreign.
    (b"referrer-policy", b"same-origin"),
]


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
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif not self._is_from_here(scope):
            await _refuse(scope, send, 403, "This page does not answer to other sites, or under that name.")
        elif not self._password or self._has_session(scope):
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await _refuse(scope, send, 403, "")
        elif scope["path"] == "/login" and scope["method"] == "POST":
            await self._log_in(scope, receive, send)
        elif b"authorization" in dict(scope["headers"]):
            await self._let_program_in(scope, receive, send)
        elif b"text/html" in dict(scope["headers"]).get(b"accept", b"") and scope["method"] == "GET":
            await _answer(send, 200 if scope["path"] == "/login" else 401, self._form(""))
        else:
            await _refuse(scope, send, 401, "The password is missing.")

    def _is_from_here(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and urlsplit(origin).netloc != host:
            return False
        return bool(self._password) or is_loopback(urlsplit(f"//{host}").hostname or "")

    def _has_session(self, scope: Scope) -> bool:
        try:
            cookie = SimpleCookie(dict(scope["headers"]).get(b"cookie", b"").decode("latin-1")).get(COOKIE)
        except CookieError:
            return False
        # Who has no token cannot learn one from how long this takes: they are random, of 256 bits.
        return cookie is not None and self._sessions.get(cookie.value, 0.0) > self._clock()

    async def _log_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await asyncio.wait_for(_body(receive), FORM_SECONDS)
        except asyncio.TimeoutError:
            await _refuse(scope, send, 408, "The password took too long to come.")
            return
        given = parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]
        problem = self._problem(scope, given)
        if problem:
            await _answer(send, 429 if problem.startswith("Too") else 401, self._form(problem))
            return
        token = secrets.token_urlsafe(32)
        self._sessions[token] = self._clock() + SESSION_SECONDS
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        cookie = f"{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={SESSION_SECONDS:.0f}"
        await _answer(send, 303, "", [(b"location", b"/"), (b"set-cookie", cookie.encode())])

    async def _let_program_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let Prometheus and its like in, which send the password with each request."""
        problem = self._problem(scope, _given_by(dict(scope["headers"])[b"authorization"]))
        if problem:
            await _refuse(scope, send, 429 if problem.startswith("Too") else 401, problem)
        else:
            await self.app(scope, receive, _with_headers(send))

    def _problem(self, scope: Scope, given: str) -> str:
        """Return what is wrong with a password, for people; empty where it is right."""
        address = (scope.get("client") or ("",))[0]
        if not self._attempts.allowed(address):
            return "Too many wrong passwords. Wait a minute."
        if hmac.compare_digest(given.encode("utf-8", "replace"), self._password):
            return ""
        self._attempts.wrong(address)
        return "That is not the password."

    def _form(self, problem: str) -> str:
        return FORM.replace("TITLE", html.escape(self._title)).replace("PROBLEM", html.escape(problem))


def _given_by(authorization: bytes) -> str:
    """Return the password in an Authorization header: Bearer, or Basic with any name."""
    scheme, _, value = authorization.decode("latin-1").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2] if scheme.lower() == "basic" else ""
    except ValueError:
        return ""


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *SECURITY_HEADERS]}
        await send(message)

    return sending


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body") or len(body) > MAX_FORM_BYTES:
            return body[:MAX_FORM_BYTES]


async def _refuse(scope: Scope, send: Send, status: int, text: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
    else:
        await _answer(send, status, text, [(b"content-type", b"text/plain; charset=utf-8")])


async def _answer(send: Send, status: int, body: str, headers: Headers | None = None) -> None:
    has_type = any(name == b"content-type" for name, _ in headers or ())
    html_type: Headers = [] if has_type else [(b"content-type", b"text/html; charset=utf-8")]
    all_headers = [*(headers or []), *html_type, (b"cache-control", b"no-store"), *SECURITY_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body.encode()})


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
