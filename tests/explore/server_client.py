"""A server of the explorer in a thread, over a site that has no more than it needs, and a client of it."""

import contextlib
import http.client
import json
import threading

from tiny_models import WIDTH, tiny_model_folder

from unmix.activations.mask import Mask
from unmix.config import MaskConfig, ModelConfig
from unmix.dictionary.model import new_dictionary
from unmix.explore import server_api as api
from unmix.explore.pack import script
from unmix.explore.server import listen
from unmix.explore.server_worker import Worker
from unmix.explore.token_bytes import bytes_of
from unmix.lm.model import load_language_model

WAIT = 60  # seconds; far more than anything takes
HOOK, FEATURES, TEXT = "resid_post.1", 48, "def of(self): return naïve 🙂"
TOKEN = "the-token-of-this-launch"
MAXIMA = [2.5 if n % 7 else None for n in range(FEATURES)]


def write_site(folder, members=("l0-5",)):
    """What the server needs of a site."""
    for name in members:
        (folder / name).mkdir(parents=True)
        (folder / name / "index.js").write_bytes(script(f"{name}/index", {"max": MAXIMA}))
    (folder / "index.html").write_text("<!doctype html><title>site</title>")
    manifest = {"format": 1, "members": [{"name": name} for name in members], "server": False}
    (folder / "manifest.js").write_bytes(script("manifest", manifest, packed=False))
    return folder


def make_served(site):
    """What the server answers from: a tiny model, one dictionary."""
    lm = load_language_model(ModelConfig(name=str(tiny_model_folder())))
    mask = Mask(MaskConfig(special=True, norm_above=None), [0], 0.0)
    member = api.Member("l0-5", HOOK, new_dictionary(WIDTH, FEATURES, 2.0, 0), mask, write_site(site))

    def windows(name, request):
        return {"windows": [], "member": name, "offset": request.offset, "order": request.order}

    return api.Served(lm, bytes_of(lm.tokenizer), {"l0-5": member}, windows)


class Running:
    """A server in a thread, and a client that sends what the page would, but for what a test changes."""

    def __init__(self, served):
        from unmix.explore import server_app  # only where Starlette is installed

        self.served, self.workers = served, server_app.Workers(Worker(), Worker())
        self.socket = listen(0)
        self.port = self.socket.getsockname()[1]
        app = server_app.application(served, next(iter(served.members.values())).site, TOKEN, self.workers)
        self.server = server_app.server(app, self.workers)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()

    def close(self):
        self.server.should_exit = True
        self.thread.join(WAIT)
        self.workers.close()
        assert not self.thread.is_alive()

    def send(self, path, body=None, method=None, **changed):
        """(status, headers, body)."""
        headers = {"Host": f"127.0.0.1:{self.port}"}
        if path.startswith("/api/"):
            headers |= {"X-Unmix-Token": TOKEN, "Content-Type": "application/json"}
        headers |= {name.replace("_", "-"): value for name, value in changed.items()}
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        with contextlib.closing(connection):
            method = method or ("GET" if body is None else "POST")
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if value is not None:
                    connection.putheader(name, value)
            if data is not None:
                connection.putheader("Content-Length", str(len(data)))
            connection.endheaders(data)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def ask(self, path, body, **changed):
        """The answer of the API as data."""
        status, headers, content = self.send(path, body, **changed)
        assert headers["Content-Type"] == "application/json"
        found = json.loads(content)
        assert (status == 200) == ("error" not in found)
        if status != 200:
            assert found.keys() == {"error"}
            assert "\n" not in found["error"]
        return status, found


def prompt(**more):
    """The body of a request."""
    return {"member": "l0-5", "text": TEXT} | more
