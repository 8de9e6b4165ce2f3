"""An endpoint that speaks the OpenAI protocol: POST URL/chat/completions, by the standard library alone."""

from __future__ import annotations

import http.client
import ipaddress
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from unmix.errors import UserError

TIMEOUT = 300  # seconds for one answer
ANSWER = 2**20  # bytes of one
WORDS = 1000  # tokens of one
PAUSES = (1.0, 4.0, 16.0)  # seconds before an endpoint that is busy is asked again
BUSY = (429, 502, 503, 504)


class Unreadable(Exception):
    """An answer that is not what was asked for; its text says how it begins."""


@dataclass(frozen=True)
class Endpoint:
    """Where questions go. Raises `UserError` for an address that is none, or that would send a key in clear."""

    url: str
    model: str
    key: str = field(default="", repr=False)
    pause: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            fits = parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment
        except ValueError:  # brackets that do not close
            fits = False
        if not fits:
            raise UserError(f"{self.url!r} is no endpoint; give one such as http://localhost:11434/v1")
        if parts.username or parts.password:
            raise UserError("the endpoint's address holds a name or password; give the key by --key-variable NAME")
        if self.key and parts.scheme == "http" and not self.local:
            raise UserError(f"{self.url} would send the key in clear; give https://, or no key")

    @property
    def local(self) -> bool:
        """Whether it is on this machine."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def ask(self, system: str, question: str, seed: int) -> str:
        """The answer's text. Raises `UserError`, one line, if there is none, and `Unreadable` if it is no answer."""
        body = {
            "model": self.model,
            "messages": [{"role": "system", "content": system}, {"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": WORDS,
            "seed": seed,
        }
        for wait in (*PAUSES, None):
            try:
                return _content(self._post(json.dumps(body).encode()))
            except urllib.error.HTTPError as error:
                with error:
                    said = " ".join(error.read(2000).decode("utf-8", "replace").split())[:200]
                if error.code not in BUSY or wait is None:
                    remedy = "give the key by --key-variable NAME" if error.code in (401, 403) else "see its log"
                    raise UserError(f"{self.url} answered {error.code} ({said or error.reason}); {remedy}") from None
                self.pause(wait)
            except (OSError, http.client.HTTPException) as error:  # URLError is the first, so is a timeout
                said = str(getattr(error, "reason", error)) or type(error).__name__
                raise UserError(f"{self.url} cannot be asked ({said}); is it running?") from None
        raise AssertionError

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers, method="POST")
        # what is local goes through no proxy; nothing follows a redirection, which would take text and key elsewhere
        handlers = [urllib.request.ProxyHandler({})] if self.local else []
        with urllib.request.build_opener(_NoRedirect, *handlers).open(request, timeout=TIMEOUT) as answer:
            found: bytes = answer.read(ANSWER + 1)
        if len(found) > ANSWER:
            raise Unreadable(f"more than {ANSWER:,} bytes")
        return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _content(data: bytes) -> str:
    try:
        found = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        found = None
    if not isinstance(found, str):
        raise Unreadable(data[:80].decode("utf-8", "replace"))
    return found.rpartition("</think>")[2].strip()  # what a model says to itself first


def key_from(variable: str | None) -> str:
    """The key in an environment variable; none if none is named. Raises `UserError` if it is not set."""
    if variable is None:
        return ""
    if not (key := os.environ.get(variable, "").strip()):
        raise UserError(f"the environment variable {variable} is not set; set it to the endpoint's key")
    return key
