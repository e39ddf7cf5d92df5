from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

pytest.importorskip("starlette", reason="NiceGUI, which brings it, is not installed")

from starlette.types import Message, Receive, Scope, Send

from hierarchy.runtime.page.gate import SESSION_SECONDS, TRIES, WITHIN_SECONDS, Gate

PASSWORD = "correct horse"
HOST = "robot.local:8080"


async def inner(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"secret"})


@dataclass
class Browser:
    """Asks a gate for things, as a browser or a program would."""

    password: str = PASSWORD
    now: float = 0.0
    headers: dict[str, str] = field(default_factory=lambda: {"host": HOST, "accept": "text/html"})
    address: str = "10.0.0.7"

    def __post_init__(self) -> None:
        self.gate = Gate(inner, password=self.password, title="<r1>", clock=lambda: self.now)

    def ask(self, path: str = "/", method: str = "GET", body: bytes = b"", kind: str = "http", **more: str) -> Answer:
        headers = {**self.headers, **{name.replace("_", "-"): value for name, value in more.items()}}
        scope: Scope = {
            "type": kind,
            "path": path,
            "method": method,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": (self.address, 1),
        }
        sent: list[Message] = []
        parts: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> Message:
            return next(parts)

        async def send(message: Message) -> None:
            sent.append(message)

        asyncio.run(self.gate(scope, receive, send))
        return Answer(sent)

    def log_in(self, password: str) -> Answer:
        return self.ask("/login", "POST", f"password={password.replace(' ', '+')}".encode())


@dataclass
class Answer:
    sent: list[Message]

    @property
    def status(self) -> int:
        return int(self.sent[0].get("status", 0))

    @property
    def text(self) -> str:
        return bytes(self.sent[-1].get("body", b"")).decode()

    def header(self, name: str) -> str:
        return dict(self.sent[0].get("headers", ()))[name.encode()].decode()  # type: ignore[no-any-return]


def test_nothing_is_reached_without_the_password() -> None:
    browser = Browser()
    for path in ("/", "/live.mjpeg", "/thumbnail/x", "/sees.json", "/metrics", "/_nicegui/auto/static/x.js"):
        for accept in ("text/html", "image/*"):
            answer = browser.ask(path, accept=accept)
            assert answer.status == 401
            assert "secret" not in answer.text
    assert browser.ask("/_nicegui_ws/socket.io", kind="websocket").sent == [{"type": "websocket.close", "code": 1008}]


def test_who_logs_in_gets_in_for_a_day() -> None:
    browser = Browser()
    answer = browser.log_in(PASSWORD)
    cookie = answer.header("set-cookie")
    assert answer.status == 303
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert PASSWORD not in cookie
    browser.headers["cookie"] = cookie.split(";")[0]
    assert browser.ask().text == "secret"
    browser.now = SESSION_SECONDS + 1
    assert browser.ask().status == 401


def test_wrong_passwords_are_few_a_minute() -> None:
    browser = Browser()
    for _ in range(TRIES):
        assert browser.log_in("wrong").status == 401
    assert browser.log_in(PASSWORD).status == 429
    browser.address = "10.0.0.8"
    assert browser.log_in(PASSWORD).status == 303
    browser.address, browser.now = "10.0.0.7", WITHIN_SECONDS + 1
    assert browser.log_in(PASSWORD).status == 303


def test_guessing_from_many_addresses_is_bounded_too() -> None:
    browser = Browser()
    answers = []
    for number in range(60):
        browser.address = f"10.0.1.{number}"
        answers.append(browser.log_in("wrong").status)
    assert answers.count(401) == 50


def test_programs_send_the_password_with_each_request() -> None:
    browser = Browser()
    basic = base64.b64encode(f"anybody:{PASSWORD}".encode()).decode()
    assert browser.ask("/metrics", authorization=f"Bearer {PASSWORD}").text == "secret"
    assert browser.ask("/metrics", authorization=f"Basic {basic}").text == "secret"
    for wrong in ("Bearer x", "Basic x", "Basic %%%", "Digest x", ""):
        assert browser.ask("/metrics", authorization=wrong).status in {401, 429}


def test_other_sites_get_nothing_even_from_a_browser_that_is_logged_in() -> None:
    browser = Browser()
    browser.headers["cookie"] = browser.log_in(PASSWORD).header("set-cookie").split(";")[0]
    assert browser.ask(origin="http://evil.example").status == 403
    assert browser.ask(kind="websocket", origin="http://evil.example").sent[0]["type"] == "websocket.close"
    assert browser.ask(origin=f"http://{HOST}").status == 200


def test_without_a_password_only_names_of_this_machine_are_answered() -> None:
    browser = Browser(password="")
    assert browser.ask().status == 403  # a name that somebody lets point to 127.0.0.1
    for host in ("127.0.0.1:8080", "localhost:8080", "[::1]:8080"):
        assert browser.ask(host=host).text == "secret"
        assert browser.ask(host=host, origin="https://evil.example").status == 403


def test_the_form_shows_names_as_text_and_loads_nothing() -> None:
    form = Browser().ask().text
    assert "<r1>" not in form
    assert "&lt;r1&gt;" in form
    assert "http" not in form.replace("http-equiv", "")


def test_an_endless_login_is_cut_off() -> None:
    assert Browser().ask("/login", "POST", b"password=" + b"x" * 1_000_000).status == 401


@pytest.mark.parametrize("cookie", ["reflexarc=", "reflexarc=x", "=", ";;;", "reflexarc=\x00", '"'])
def test_odd_cookies_let_nobody_in(cookie: str) -> None:
    assert Browser().ask(cookie=cookie).status == 401
