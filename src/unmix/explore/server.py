"""`unmix explore RUN`: the page of the built site, on this machine only, with prompts and interventions.

It listens on 127.0.0.1, and answers nobody but the page whose address it prints (`server_guard`). The site's files are
served as they are; what the model is asked for goes through one thread (`server_worker`).
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unmix.errors import UserError
from unmix.evaluation.subject import NO_KEYS

LOOPBACK = "127.0.0.1"
PORT = 8200
TRIED = 20  # ports in a row


def serve(
    folder: Path,
    out: Path | None = None,
    *,
    port: int = PORT,
    model: str | None = None,
    corpus: str | None = None,
    hook: str | None = None,
    hook_out: str | None = None,
    corpus_keys: Mapping[str, Any] = NO_KEYS,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the explorer of the run or dictionary in `folder` until Ctrl-C.

    `out`: where it was built, if not in `folder/explore`. A port that is in use is passed over for the next free one,
    which is said; port 0 is any free one. Raises `UserError` if Starlette or uvicorn is not installed, for a port that
    cannot be had, and for what `open_served` does.
    """
    if not 0 <= port < 2**16:
        raise UserError(f"port {port} is no port; give 1 to 65535, or 0 for any that is free")
    try:
        from unmix.explore import server_app
    except ImportError as error:
        raise UserError(
            f"the server needs {error.name}, which is not installed; pip install 'unmix[explore]', or open the site's "
            "index.html without a server"
        ) from None
    from unmix.explore.server_open import open_served
    from unmix.explore.server_worker import Worker

    out = folder / "explore" if out is None else out
    served = open_served(
        folder, out, model=model, corpus=corpus, hook=hook, hook_out=hook_out, corpus_keys=corpus_keys, say=say
    )
    listening = listen(port)
    workers = server_app.Workers(Worker(), Worker())
    token = secrets.token_urlsafe(32)
    try:
        got = listening.getsockname()[1]
        if port not in (0, got):
            say(f"port {port} is in use; taking {got}")
        say(f"http://{LOOPBACK}:{got}/#token={token}")
        say("it answers on this machine only, and whoever has this address; Ctrl-C ends it")
        app = server_app.application(served, out / "site", token, workers)
        server_app.server(app, workers).run(sockets=[listening])
    except KeyboardInterrupt:
        pass  # how it is meant to end
    finally:
        listening.close()
        workers.close()
    say("stopped")


def listen(port: int) -> socket.socket:
    """A socket that listens on 127.0.0.1, at this port or the next free one. Raises `UserError` if there is none."""
    last = min(port + TRIED, 2**16) if port else 1
    for candidate in range(port, last):
        found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if os.name != "nt":  # there, it would share a port that is in use
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((LOOPBACK, candidate))
            found.listen(128)  # only this shows that another has the port, where both may bind it
            return found
        except OSError as error:
            found.close()
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise UserError(f"cannot listen on {LOOPBACK}:{candidate} ({error.strerror}); give --port") from None
    raise UserError(f"no port from {port} to {last - 1} is free; give another with --port, or 0 for any")
