"""An endpoint on this machine that answers as a test says, and features for it to describe."""

import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from unmix.explore.describe import describe, read_lines
from unmix.explore.describe_ask import Endpoint
from unmix.explore.describe_text import CLOSE, OPEN

WORDS = [" the", " of", " def", " return", " import", "\n", " é", " self"]
FIRES = 2  # " def"
ABOUT = {"member": "l0-5", "site": "abc"}


def bytes_of(i):
    return WORDS[i].encode()


def window(s, at=None, *, length=12, p=0, seed=0):
    """Of sequence s; the feature fires at offset `at`, where the token is " def", and nowhere if there is none."""
    draw = random.Random(f"{s} {seed}")
    ids = [draw.choice([i for i in range(len(WORDS)) if i != FIRES]) for _ in range(length)]
    if at is not None:
        ids[at] = FIRES
    return {"s": s, "p": p, "c": at or 0, "ids": ids, "v": [] if at is None else [[at, 1.0 + s % 5]], "m": []}


def record(i=0, *, top=20, uniform=10, band=4, near=4, silent=4):
    """A feature whose windows are each of a sequence of its own."""
    number = iter(range(100 * i, 10**6))

    def firing(n):
        return [window(s := next(number), s % 12) for _ in range(n)]

    bands = [{"low": 0, "high": 1, "firings": 0.2, "mass": 0.2} for _ in range(5)]
    return {
        "i": i,
        "max": 5.0,
        "groups": {
            "top": firing(top),
            "uniform": firing(uniform),
            "value": [{**b, "windows": firing(band)} for b in bands],
            "mass": [{**b, "windows": firing(band)} for b in bands],
            "near": [window(next(number)) for _ in range(near)],
            "silent": [window(next(number)) for _ in range(silent)],
        },
        "logits": {"plus": [[3, 1.0], [6, 0.5]], "minus": []},
    }


class Model:
    """Answers as a test says; what it was sent is kept."""

    def __init__(self, answer):
        self.answer, self.sent, self.headers = answer, [], []
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                model.sent.append((self.path, body))
                model.headers.append(dict(self.headers))
                given = model.answer(body["messages"][-1]["content"])
                status, more, content = given if isinstance(given, tuple) else (200, {}, given)
                if isinstance(content, str):
                    content = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def endpoint(self, **more):
        return Endpoint(self.url, "tiny", pause=lambda seconds: None, **more)


def texts_of(question):
    return [line.partition(": ")[2] for line in question.splitlines() if line.startswith("Text ")]


def knows(question):
    """Answers rightly: the feature is " def"."""
    if question.startswith("Text 1"):
        return "It always is a keyword.\n\nDESCRIPTION: the Python keyword def"
    if "Is the feature active" in question:
        return json.dumps([int(" def" in text) for text in texts_of(question)])
    return json.dumps([int(f"{OPEN} def{CLOSE}" in text) for text in texts_of(question)])


def ask(path, model, records, say=lambda line: None, **more):
    found = {each["i"]: each for each in records}
    describe(list(found), found.__getitem__, bytes_of, path, model.endpoint(), about=ABOUT, say=say, **more)
    return read_lines(path)
