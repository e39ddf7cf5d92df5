"""Passwords in the URLs of sources: masked where people read them, read from the environment."""

from __future__ import annotations

import os
import re
import shlex
from urllib.parse import quote, urlsplit

from broker.errors import ConfigError, SourceError

PASSWORD_VARIABLE = "REFLEXARC_CAMERA_PASSWORD"  # noqa: S105, the name is no secret
MASK = "***"
# What a URL's password begins and ends with: rtsp://user:password@host. It may have a / ? # or @ that somebody did not
# encode, so it goes up to the last @ of its word; in a text that is a URL and nothing else, spaces are no ends either.
_USER_PASSWORD = re.compile(r"(?<=://)([^/?#@\s:]*):(\S*)@")
_USER_PASSWORD_OF_URL = re.compile(r"(?<=://)([^/?#@\s:]*):(.*)@", re.DOTALL)
_SECRET = r"(?:pw|pwd|psw|pas|pass|passwd|password|passphrase|token|key|auth|secret|signature)="  # noqa: S105, a pattern
# http://host/video?user=admin&pwd=password as some cameras have it, and GStreamer's user-pw=password, maybe in quotes.
_QUERY_PASSWORD = re.compile(rf"([?&][\w.-]*?{_SECRET})[^&\s]*", re.IGNORECASE)
_QUERY_PASSWORD_OF_URL = re.compile(rf"([?&][\w.-]*?{_SECRET})[^&]*", re.IGNORECASE)
_PROPERTY = re.compile(rf"(\buser-{_SECRET})(\"[^\"]*\"?|'[^']*'?|(?:\\.|\S)*)", re.IGNORECASE)
_URL = re.compile(r"(rtsps?|https?)://", re.IGNORECASE)
_ENCODE = (
    f"in a password write % as %25, / as %2F, ? as %3F, # as %23, @ as %40 and a space as %20; or write {MASK} in its "
    f"place and set {PASSWORD_VARIABLE} to the password as it is"
)


def masked(text: str) -> str:
    """Return the text with MASK for every password in a URL of it, also where that is not encoded as it should be."""
    if _URL.match(text):
        return _QUERY_PASSWORD_OF_URL.sub(rf"\1{MASK}", _USER_PASSWORD_OF_URL.sub(rf"\1:{MASK}@", text))
    text = _PROPERTY.sub(rf"\1{MASK}", _USER_PASSWORD.sub(rf"\1:{MASK}@", text))
    return _QUERY_PASSWORD.sub(rf"\1{MASK}", text)


def unmasked(text: str) -> str:
    """Return a source's text with the password from the environment where the text has MASK. Raises ConfigError."""
    if MASK not in text:
        return text
    password = os.environ.get(PASSWORD_VARIABLE)
    if password is None:
        raise ConfigError(f"--source {text}: set {PASSWORD_VARIABLE} to the password that {MASK} stands for")
    # A property of GStreamer is no part of a URL.
    text = _PROPERTY.sub(lambda found: found[1] + found[2].replace(MASK, shlex.quote(password)), text)
    return text.replace(MASK, quote(password, safe=""))


def check_url(url: str) -> None:
    """Raise SourceError, which shows no password, for a URL that would not be read as it is meant."""
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:  # its text may show the password
        is_whole = False
    user = url.partition("://")[2].rpartition("@")[0]
    is_cut = bool(_USER_PASSWORD.search(url)) and "@" not in re.split(r"[/?#]", url.partition("://")[2])[0]
    is_bare = re.search(r"%(?![0-9a-f]{2})", user, re.IGNORECASE)
    if is_cut or is_bare or re.search(r"[\s#]", url):
        raise SourceError(f"stream {masked(url)}: its password, or its path, is not encoded: {_ENCODE}")
    if not is_whole:
        raise SourceError(f"stream {masked(url)}: it names no host, or no port of 1 to 65535 behind it; {_ENCODE}")
