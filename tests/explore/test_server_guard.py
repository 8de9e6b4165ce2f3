"""Who is answered, request by request."""

import pytest

from unmix.explore.server_guard import HEADERS, refusal

TOKEN = "a-token_of-this-launch"
GOOD = {"host": "127.0.0.1:8200", "x-unmix-token": TOKEN, "content-type": "application/json"}


def asked(method="POST", path="/api/prompt", more=(), **changed):
    headers = GOOD | {name.replace("_", "-"): value for name, value in changed.items()}
    sent = [*((name, value) for name, value in headers.items() if value is not None), *more]
    raw = [(name.encode(), value.encode("latin-1")) for name, value in sent]
    return refusal(method, path, raw, TOKEN)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:1", "localhost:65535", "LOCALHOST:8200", "[::1]:9", "[::1]"])
def test_every_name_of_this_machine_is_answered_at_any_port(host):
    assert asked(host=host) is None
    assert asked(host=host, origin=f"http://{host}") is None
    assert asked("GET", "/", host=host, x_unmix_token=None) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "127.0.0.1.evil.example", "evil.example:8200", "127.0.0.1:8200@evil.example", "0.0.0.0:8200",
        "127.0.0.2", "localhost.", "localhost:", "localhost:8a", "localhost:1234567", "", "[::1", "::1", "127.0.0.1 x",
        "127.0.0.1:８２００".encode().decode("latin-1"), "192.168.1.5:8200", None,
    ],
)  # fmt: skip
@pytest.mark.parametrize(("method", "path"), [("POST", "/api/prompt"), ("GET", "/"), ("GET", "/app.js")])
def test_a_foreign_host_is_refused(host, method, path):
    found = asked(method, path, host=host)
    assert found.status == 403
    assert "Host" in found.reason


def test_two_hosts_are_refused():
    assert asked(more=[("host", "127.0.0.1:8200")]).status == 403


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example", "null", "", "http://127.0.0.1:9999", "http://localhost:8200", "file://",
        "127.0.0.1:8200",
        "http://127.0.0.1:8200.evil.example", "http://127.0.0.1:8200/", "ftp://127.0.0.1:8200",
    ],
)  # fmt: skip
@pytest.mark.parametrize(("method", "path"), [("POST", "/api/prompt"), ("GET", "/")])
def test_a_foreign_origin_is_refused(origin, method, path):
    found = asked(method, path, origin=origin)
    assert found.status == 403
    assert "Origin" in found.reason


@pytest.mark.parametrize("site", ["cross-site", "same-site", "", "same-origin, cross-site"])
@pytest.mark.parametrize(("method", "path"), [("POST", "/api/prompt"), ("GET", "/app.js")])
def test_another_site_is_refused(site, method, path):
    assert asked(method, path, sec_fetch_site=site).status == 403
    assert asked(method, path, sec_fetch_site="same-origin") is None
    assert asked(method, path, sec_fetch_site="none") is None


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "ä" * 22])
def test_without_the_token_the_api_is_shut(token):
    found = asked(x_unmix_token=token)
    assert (found.status, "X-Unmix-Token" in found.reason) == (403, True)


def test_two_tokens_are_refused():
    assert asked(more=[("x-unmix-token", TOKEN)]).status == 403


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/api/prompt", 405), ("OPTIONS", "/api/prompt", 405), ("POST", "/", 405), ("PUT", "/app.js", 405)],
)
def test_other_methods_are_refused(method, path, status):
    assert asked(method, path).status == status


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx"]
)
def test_a_form_is_refused(kind):
    assert asked(content_type=kind).status == 415
    assert asked(content_type="application/json; charset=utf-8") is None


def test_no_other_site_may_read_or_frame_an_answer():
    assert not [name for name in HEADERS if name.lower().startswith("access-control")]
    policy = HEADERS["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert (HEADERS["X-Content-Type-Options"], HEADERS["Referrer-Policy"]) == ("nosniff", "no-referrer")
