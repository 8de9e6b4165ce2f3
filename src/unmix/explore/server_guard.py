"""Who is answered: the page that this server gave out, and nobody else.

Every program and every user of the machine reaches 127.0.0.1, and so does any web page that a browser has open. A
request is answered if

    Host             is 127.0.0.1, localhost or [::1], with any port: a name that an attacker points here is refused
    Origin           is absent, or the same as Host
    Sec-Fetch-Site   is absent, `same-origin` or `none`
    X-Unmix-Token    on /api/, is the random token of this launch, which stands behind the # of the printed address
                     and so is in no log and no Referer
    Content-Type     on /api/, is JSON, which a form of another site cannot send
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from typing import NamedTuple

TOKEN = "X-Unmix-Token"
API = "/api/"
_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.ASCII)
_SCHEMES = ("http://", "https://")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer. There are none that would let another site read it (CORS)."""


class Refusal(NamedTuple):
    """Why a request is not answered."""

    status: int
    reason: str


def refusal(method: str, path: str, headers: Sequence[tuple[bytes, bytes]], token: str) -> Refusal | None:
    """Why this request is refused, or nothing. Names of headers are in lower case, as ASGI gives them."""
    hosts = _values(headers, "host")
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        return Refusal(403, f"Host {_said(hosts)} is not this machine; open the address that unmix printed")
    origins = _values(headers, "origin")
    if origins and (len(origins) > 1 or origins[0] not in [scheme + hosts[0] for scheme in _SCHEMES]):
        return Refusal(403, f"Origin {_said(origins)} is another site; open the address that unmix printed")
    sites = _values(headers, "sec-fetch-site")
    if sites and sites not in (["same-origin"], ["none"]):
        return Refusal(403, f"this request comes from another site (Sec-Fetch-Site {_said(sites)})")
    if not path.startswith(API):
        allowed = method in ("GET", "HEAD")
        return None if allowed else Refusal(405, f"{method} is not answered here; files are read by GET")
    if method != "POST":
        return Refusal(405, f"{method} is not answered here; {path} takes POST")
    tokens = _values(headers, TOKEN.lower())
    if len(tokens) != 1 or not hmac.compare_digest(tokens[0].encode(), token.encode()):
        return Refusal(403, f"{TOKEN} is {'wrong' if tokens else 'missing'}; open the address that unmix printed last")
    if [value.partition(";")[0].strip() for value in _values(headers, "content-type")] != ["application/json"]:
        return Refusal(415, "the Content-Type has to be application/json")
    return None


def _values(headers: Sequence[tuple[bytes, bytes]], name: str) -> list[str]:
    """As they were sent, a token but for letters; other headers compare in lower case."""
    found = [value.decode("latin-1").strip() for key, value in headers if key == name.encode()]
    return found if name == TOKEN.lower() else [value.lower() for value in found]


def _said(values: list[str]) -> str:
    return ", ".join(repr(value[:80]) for value in values) or "(absent)"
