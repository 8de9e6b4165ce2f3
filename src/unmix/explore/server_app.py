"""The HTTP side: Starlette and uvicorn, which `server.py` imports when they are needed."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unmix.errors import UserError
from unmix.explore import server_api as api
from unmix.explore.intervene import Cancelled
from unmix.explore.server_files import read_file
from unmix.explore.server_guard import API, HEADERS, refusal
from unmix.explore.server_worker import Busy, Job, Worker

BODY = 2**17  # bytes of a request
GRACE = 5  # seconds that requests have to end in once the server is to stop
_LOG = logging.getLogger(__name__)


class Workers(NamedTuple):
    """One thread for the model, one for the store: a feature can be read while the model writes."""

    model: Worker
    store: Worker

    def stop(self) -> None:
        for worker in self:
            worker.stop()

    def close(self) -> None:
        """Wait for both threads."""
        for worker in self:
            worker.close()


class Guard:
    """Refuses what `server_guard` does, and puts its headers on every answer."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(key.lower().encode(), value.encode()) for key, value in HEADERS.items()]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        refused = refusal(scope["method"], scope["path"], scope["headers"], self.token)
        answer = self.app if refused is None else _error(refused.status, refused.reason)
        await answer(scope, receive, with_headers)


def application(served: api.Served, site: Path, token: str, workers: Workers) -> Guard:
    """The site's files, and /api/ for whoever has the token."""

    async def static(request: Request) -> Response:
        found = read_file(site, request.path_params["path"])
        if found is None:
            return _error(404, "there is no such file in the site")
        return Response(found.content, media_type=found.media_type)

    def route(name: str, kind: Any, answer: Callable[..., api.Answer], worker: Worker) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                parsed = api.parse(kind, await _body(request))
                job = worker.submit(lambda asked: answer(served, parsed, asked))
            except UserError as error:
                return _error(400, str(error))
            except ClientDisconnect:
                return Response(status_code=499)  # before all of it came
            except Busy:
                return _error(429, "too many requests wait already; try again in a moment")
            return await _finished(request, job)

        return Route(f"{API}{name}", endpoint, methods=["POST"])

    routes = [
        route("prompt", api.PromptRequest, api.answer_prompt, workers.model),
        route("intervene", api.InterveneRequest, api.answer_intervene, workers.model),
        route("feature", api.FeatureRequest, api.answer_feature, workers.store),
        Route("/{path:path}", static, methods=["GET"]),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={HTTPException: _of_http, Exception: _inside}), token)


async def _body(request: Request) -> bytes:
    """Raises `UserError` if it is too long, and before all of it is read."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY:
            raise UserError(f"a request may have {BODY:,} bytes; send a shorter text")
    return body


async def _finished(request: Request, job: Job) -> Response:
    """The answer of the job, which is cancelled if nobody waits for it any more."""
    answer: asyncio.Future[Any] = asyncio.wrap_future(job.answer)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            return Response(status_code=499)  # nobody reads it
        return _Json(answer.result())
    except (Cancelled, asyncio.CancelledError):
        if not answer.done():  # it is this request that is cancelled
            raise
        return _error(503, "the server is stopping")
    except UserError as error:
        return _error(400, str(error))
    except Exception as error:
        _LOG.exception("a request failed")
        return _inside(request, error)
    finally:
        job.cancel()
        answer.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Json(JSONResponse):
    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def _error(status: int, reason: str) -> Response:
    """One line, as JSON."""
    return _Json({"error": " ".join(reason.split())[:500]}, status)


def _of_http(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses."""
    if not isinstance(error, HTTPException):
        raise error
    return _error(error.status_code, error.detail)


def _inside(request: Request, error: Exception) -> Response:
    """What went wrong here."""
    return _error(500, str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}")


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop = stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._stop()  # before requests are waited for: the model may be writing
        await super().shutdown(sockets)


def server(app: Guard, workers: Workers) -> uvicorn.Server:
    """A server that answers once its `run(sockets=[…])` is called, until it is interrupted."""
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,  # nothing of a request is logged
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    return _Server(config, workers.stop)
