"""Endpoints that fail, and what must not reach them."""

import json
from collections import Counter

import pytest
from explore.scripted_endpoint import ABOUT, Model, ask, bytes_of, knows, record

from unmix.errors import UserError
from unmix.explore import describe as module
from unmix.explore.describe import describe, read_lines
from unmix.explore.describe_ask import Endpoint, Unreadable, key_from


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, r"answered 400 \(no such model\); see its log"),
        (401, r"answered 401 \(no such model\); give the key by --key-variable NAME"),
        (404, r"answered 404 \(no such model\)"),
        (500, r"answered 500 \(no such model\)"),
        (503, r"answered 503 \(no such model\)"),
        (302, r"answered 302"),
    ],
)
def test_an_http_error_is_one_line_and_keeps_what_was_answered(tmp_path, model, status, said):
    described = []

    def answer(question):
        described.append(question.startswith("Text 1"))
        if sum(described) < 2:
            return knows(question)
        return status, {"Location": "http://127.0.0.1:9/elsewhere"}, b"no such\n  model"

    path, failing = tmp_path / "a.jsonl", model(answer)
    with pytest.raises(UserError, match=said) as found:
        ask(path, failing, [record(1), record(2)])
    assert "\n" not in str(found.value)
    assert [row["i"] for row in read_lines(path)] == [1]
    assert len(failing.sent) == module.ASKED + (4 if status == 503 else 1)  # one that is busy is asked again


def test_one_that_was_busy_is_asked_again(tmp_path, model):
    counted = Counter()

    def answer(question):
        counted[question] += 1
        return (429, {}, b"slow down") if counted[question] < 3 else knows(question)

    [line] = ask(tmp_path / "a.jsonl", model(answer), [record()])
    assert line["detection"]["accuracy"] == 1.0


def test_one_that_does_not_run_is_one_line(tmp_path, model):
    gone = Model(knows)
    gone.close()
    with pytest.raises(UserError, match=r"/v1 cannot be asked \(.*\); is it running\?"):
        ask(tmp_path / "a.jsonl", gone, [record()])
    assert not (tmp_path / "a.jsonl").exists()


def test_an_endless_answer_is_not_read(model):
    with pytest.raises(Unreadable, match="more than"):
        model(lambda question: b"x" * 2**21).endpoint().ask("s", "q", 0)


def test_a_key_goes_into_the_header_and_nowhere_else(tmp_path, model, monkeypatch):
    monkeypatch.setenv("MY_KEY", " secret-key ")
    knowing, said = model(knows), []
    endpoint = knowing.endpoint(key=key_from("MY_KEY"))
    path = tmp_path / "a.jsonl"
    describe([1], lambda i: record(1), bytes_of, path, endpoint, about=ABOUT, say=said.append)
    assert {headers["Authorization"] for headers in knowing.headers} == {"Bearer secret-key"}
    assert "secret-key" not in "".join(said) + path.read_text() + repr(endpoint) + json.dumps(knowing.sent)
    assert key_from(None) == ""
    monkeypatch.delenv("MY_KEY")
    with pytest.raises(UserError, match="the environment variable MY_KEY is not set"):
        key_from("MY_KEY")


def test_no_proxy_sees_what_stays_on_this_machine(model, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert model(lambda question: "hello").endpoint().ask("s", "q", 0) == "hello"


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        ("localhost:11434/v1", "", "is no endpoint; give one such as http://localhost:11434/v1"),
        ("file:///etc/passwd", "", "is no endpoint"),
        ("http://", "", "is no endpoint"),
        ("http://[::1", "", "is no endpoint"),
        ("https://host/v1?key=1", "", "is no endpoint"),
        ("https://user:pass@host/v1", "", "holds a name or password; give the key by --key-variable"),
        ("http://example.org/v1", "k", "would send the key in clear; give https://"),
    ],
)
def test_addresses_that_are_refused(url, key, said):
    with pytest.raises(UserError, match=said) as found:
        Endpoint(url, "m", key)
    assert "pass@" not in str(found.value)


def test_it_knows_this_machine():
    for url in ("http://localhost:1/v1", "http://127.0.0.1/v1", "http://[::1]:8/v1", "http://127.1.2.3"):
        assert Endpoint(url, "m", "k").local
    for url in ("http://localhost.example/v1", "https://192.168.0.1/v1", "https://api.example/v1", "http://0.0.0.0/"):
        assert not Endpoint(url, "m").local
