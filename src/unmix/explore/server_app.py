"""The HTTP side: Starlette and uvicorn, which `server.py` imports when they are needed."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
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
Parts = asyncio.Queue[api.Answer | None]
"""Of an answer, as they come; none: no more will."""


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
            parts: Parts = asyncio.Queue()
            loop = asyncio.get_running_loop()

            def tell(part: api.Answer) -> None:  # by the worker's thread
                loop.call_soon_threadsafe(parts.put_nowait, part)

            try:
                parsed = api.parse(kind, await _body(request))
                job = worker.submit(lambda asked: answer(served, parsed, asked, tell))
            except UserError as error:
                return _error(400, str(error))
            except ClientDisconnect:
                return Response(status_code=499)  # before all of it came
            except Busy:
                return _error(429, "too many requests wait already; try again in a moment")
            return await _answered(request, job, parts)

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


async def _answered(request: Request, job: Job, parts: Parts) -> Response:
    """The answer of the job: once it is there, or line by line from its first part on.

    The job is cancelled if nobody waits for it any more.
    """
    lines = _lines(request, job, parts)
    try:
        status, first = await anext(lines)
    except StopAsyncIteration:
        return Response(status_code=499)  # nobody reads it
    if status:
        await lines.aclose()
        return _Json(first, status)

    async def content() -> AsyncIterator[bytes]:
        async with aclosing(lines):
            yield _Json.line(first)
            async for _, part in lines:
                yield _Json.line(part)

    return StreamingResponse(content(), media_type="application/x-ndjson")


async def _lines(request: Request, job: Job, parts: Parts) -> AsyncGenerator[tuple[int, api.Answer]]:
    """(0, each part), then (status, the whole answer or what went wrong); ends before it if the client goes away."""
    answer: asyncio.Future[Any] = asyncio.wrap_future(job.answer)
    gone = asyncio.ensure_future(_gone(request))
    for end in (answer, gone):
        end.add_done_callback(lambda _: parts.put_nowait(None))  # behind all parts: the thread sent them before
    try:
        while (part := await parts.get()) is not None:
            yield 0, part
        if answer.done():
            yield _outcome(answer)
    finally:
        for waiting in (job, answer, gone):
            waiting.cancel()


def _outcome(answer: asyncio.Future[Any]) -> tuple[int, api.Answer]:
    """(status, what is sent) of a job that has ended."""
    try:
        return 200, answer.result()
    except (Cancelled, asyncio.CancelledError):
        return 503, _said("the server is stopping")
    except UserError as error:
        return 400, _said(str(error))
    except Exception as error:
        _LOG.exception("a request failed")
        return 500, _said(_reason(error))


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class _Json(JSONResponse):
    def render(self, content: Any) -> bytes:
        return self.line(content)

    @staticmethod
    def line(content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _error(status: int, reason: str) -> Response:
    return _Json(_said(reason), status)


def _said(reason: str) -> api.Answer:
    """One line."""
    return {"error": " ".join(reason.split())[:500]}


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"


def _of_http(request: Request, error: Exception) -> Response:
    """What Starlette itself refuses."""
    if not isinstance(error, HTTPException):
        raise error
    return _error(error.status_code, error.detail)


def _inside(request: Request, error: Exception) -> Response:
    """What went wrong here."""
    return _error(500, _reason(error))


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
