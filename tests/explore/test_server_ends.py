"""Where the server says no or stops: a full queue, a client that goes away, a port in use, Ctrl-C."""

import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from explore.server_client import TEXT, TOKEN, WAIT, Running, prompt, write_site
from tiny_run import make

from unmix.errors import UserError
from unmix.explore import server_api as api
from unmix.explore.intervene import Cancelled
from unmix.explore.server import LOOPBACK, listen, serve
from unmix.explore.server_worker import QUEUE

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


class Held:
    """The model's thread, kept busy until it is let go; what is asked of it is seen."""

    def __init__(self, monkeypatch, said=None):
        self.started, self.go, self.cancelled = threading.Semaphore(0), threading.Event(), threading.Event()

        def answer(served, request, asked, tell):
            if said is not None:
                tell(said)
            self.started.release()
            while not self.go.wait(0.005):
                if asked():
                    self.cancelled.set()
                    raise Cancelled
            return {"waited": True}

        monkeypatch.setattr(api, "answer_prompt", answer)


def later(call):
    """Start a thread; the list gets what it answers."""
    found = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    return thread, found


def test_more_than_the_queue_holds_is_sent_away(served, monkeypatch):
    held = Held(monkeypatch)
    running = Running(served)
    try:
        calls = [later(lambda: running.ask("/api/prompt", prompt())) for _ in range(QUEUE + 1)]
        assert held.started.acquire(timeout=WAIT)
        until(lambda: running.workers.model.held == QUEUE + 1)
        status, found = running.ask("/api/prompt", prompt())
        assert (status, "too many requests" in found["error"]) == (429, True)
        assert running.ask("/api/feature", {"member": "l0-5", "feature": 1})[0] == 200  # the store has its own thread
        held.go.set()
        for thread, answers in calls:
            thread.join(WAIT)
            assert answers == [(200, {"waited": True})]
        assert running.ask("/api/prompt", prompt())[0] == 200
    finally:
        held.go.set()
        running.close()


@pytest.mark.parametrize("said", [None, {"part": 1}])
def test_a_client_that_goes_away_cancels(served, monkeypatch, said):
    held = Held(monkeypatch, said)
    running = Running(served)
    try:
        body = json.dumps(prompt()).encode()
        with socket.create_connection((LOOPBACK, running.port), timeout=WAIT) as client:
            head = f"POST /api/prompt HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\nX-Unmix-Token: {TOKEN}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            client.sendall(head.encode() + body)
            assert held.started.acquire(timeout=WAIT)
            if said is not None:
                assert b"application/x-ndjson" in client.recv(4096)
        assert held.cancelled.wait(WAIT)
        until(lambda: running.workers.model.held == 0)
    finally:
        held.go.set()
        running.close()


def test_a_request_that_breaks_off_does_no_harm(running, caplog):
    with socket.create_connection((LOOPBACK, running.port), timeout=WAIT) as client:
        head = f"POST /api/prompt HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\nX-Unmix-Token: {TOKEN}\r\n"
        head += "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        client.sendall(head.encode() + b'{"member"')
        time.sleep(0.05)
    assert running.ask("/api/prompt", prompt())[0] == 200
    assert running.workers.model.held == 0
    assert not caplog.records


def test_stopping_does_not_wait_for_the_model(served, monkeypatch):
    held = Held(monkeypatch)
    running = Running(served)
    thread, found = later(lambda: running.ask("/api/prompt", prompt()))
    assert held.started.acquire(timeout=WAIT)
    running.close()
    thread.join(WAIT)
    assert held.cancelled.is_set()
    assert found == [(503, {"error": "the server is stopping"})]


def test_stopping_ends_what_is_streamed(served, monkeypatch):
    held = Held(monkeypatch, {"part": 1})
    running = Running(served)
    thread, found = later(lambda: running.send("/api/prompt", prompt()))
    assert held.started.acquire(timeout=WAIT)
    running.close()
    thread.join(WAIT)
    assert held.cancelled.is_set()
    [(status, _, content)] = found
    assert status == 200
    assert [json.loads(line) for line in content.splitlines()] == [{"part": 1}, {"error": "the server is stopping"}]


def until(true):
    """Wait for what another thread is about to do."""
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_port_in_use_is_passed_over():
    with listen(0) as first:
        port = first.getsockname()[1]
        with listen(port) as second:
            assert port < second.getsockname()[1] <= port + 20
            assert second.getsockname()[0] == first.getsockname()[0] == LOOPBACK


def test_where_none_is_free_it_is_said(monkeypatch):
    monkeypatch.setattr("unmix.explore.server.TRIED", 1)
    with listen(0) as first, pytest.raises(UserError, match="is free; give another with --port, or 0 for any"):
        listen(first.getsockname()[1])


@pytest.mark.parametrize("port", [-1, 70_000])
def test_what_is_no_port_is_said(tmp_path, port):
    with pytest.raises(UserError, match=f"port {port} is no port"):
        serve(tmp_path, port=port)


def test_a_run_without_a_site_is_said(tmp_path):
    with pytest.raises(UserError, match="holds no site"):
        serve(tmp_path, port=0)


def test_what_is_not_installed_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "unmix.explore.server_app", raising=False)
    monkeypatch.delattr(sys.modules["unmix.explore"], "server_app", raising=False)
    with pytest.raises(
        UserError, match=r"the server needs uvicorn, which is not installed; pip install 'unmix\[explore"
    ):
        serve(tmp_path, port=0)


def test_python_needs_none_of_it():
    code = "import sys, unmix.explore.intervene, unmix.explore.prompt, unmix.explore.server, unmix.explore.describe\n"
    code += "print(sorted({'starlette', 'uvicorn', 'duckdb', 'openai'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


SERVE = """
import sys
from pathlib import Path
from unmix.explore.server import serve
serve(Path(sys.argv[1]), port=0, say=lambda line: print(line, flush=True))
"""


def test_a_run_is_served_on_loopback_alone_and_ends_at_ctrl_c(tmp_path, overrides):
    from unmix.training import run

    folder = tmp_path / "run"
    run.sweep(make(overrides, training__steps=20, training__l1=[1.0]), folder)
    [name] = [path.name for path in (folder / "members").iterdir()]
    write_site(folder / "explore" / "site", [name])
    child = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        lines = []
        for line in child.stdout:
            lines.append(line.strip())
            if line.startswith("http"):
                break
        port, token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/#token=([\w-]{43})", lines[-1]).groups()
        request = json.dumps({"member": name, "text": TEXT}).encode()
        connection = http.client.HTTPConnection(LOOPBACK, int(port), timeout=WAIT)
        headers = {"X-Unmix-Token": token, "Content-Type": "application/json"}
        connection.request("POST", "/api/prompt", request, headers)
        answer = connection.getresponse()
        assert answer.status == 200
        assert len(json.loads(answer.read())["tokens"]) > 5
        connection.close()
        if Path("/proc/net/tcp").exists():
            assert set(listening(child.pid)) == {f"0100007F:{int(port):04X}"}
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=WAIT)
    finally:
        child.kill()
    assert (child.returncode, err) == (0, "")
    assert out.splitlines()[-1] == "stopped"
    assert token not in err + out


def listening(pid):
    """Local addresses, in hex as Linux has them, of the sockets on which a process listens."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if found := re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink())):
                inodes.add(found[1])
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                yield fields[1]
