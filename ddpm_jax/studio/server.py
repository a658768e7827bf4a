"""The studio's web server: who may ask, and what is answered.

It answers this machine alone, under an address with a secret token. A page of another site can
make a browser send requests here, but it has another Origin and does not know the token; a name
that someone points to 127.0.0.1 is another Host.
"""

import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from importlib import resources
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ddpm_jax.errors import UserError, require
from ddpm_jax.sampling.samples import Samples
from ddpm_jax.studio import frames
from ddpm_jax.studio.chains import draw
from ddpm_jax.studio.drawing import Shape, learn
from ddpm_jax.studio.library import Library
from ddpm_jax.studio.requests import Arrows, Drawing, read_request
from ddpm_jax.studio.results import KINDS, Result, Results, decoded
from ddpm_jax.studio.streams import Stream, Streams, as_text

MOST_BODY = 2**23
"""Bytes of a request."""
PAGE = {
    "": ("index.html", "text/html"),
    "studio.css": ("studio.css", "text/css"),
    "studio.js": ("studio.js", "text/javascript"),
    "views.js": ("views.js", "text/javascript"),
}
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_ARROWS = 21
"""Arrows of the score along each side."""


class Guard:
    """Lets only the studio's own page through, and takes the token off the path."""

    def __init__(self, app: Starlette, *, token: str, port: int):
        self.app, self.token = app, token
        # Browsers leave out the port of HTTP itself.
        ends = (f":{port}", "") if port == 80 else (f":{port}",)
        self.hosts = {host + end for host in ("127.0.0.1", "localhost") for end in ends}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                more = [(name.encode(), text.encode()) for name, text in HEADERS.items()]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            return await refusal(scope, receive, with_headers)
        rest = "/" + scope["path"].split("/", 2)[2]
        inner = {**scope, "path": rest, "raw_path": rest.encode()}
        return await self.app(inner, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = [
            (name.decode("latin1"), text.decode("latin1")) for name, text in scope["headers"]
        ]
        named: dict[str, list[str]] = {}
        for name, text in headers:
            named.setdefault(name, []).append(text)
        hosts, origins = named.get("host", []), named.get("origin", [])
        if len(hosts) != 1 or hosts[0] not in self.hosts:
            return PlainTextResponse("this Host is not the studio's", 421)
        own = all(origin == f"http://{hosts[0]}" for origin in origins)
        # Browsers name the Origin of every request that changes something.
        if not own or (scope["method"] not in ("GET", "HEAD") and len(origins) != 1):
            return PlainTextResponse("this Origin is not the studio's", 403)
        first = scope["path"].split("/", 2)
        if len(first) < 3 or not hmac.compare_digest(first[1].encode(), self.token.encode()):
            return PlainTextResponse("open the address that ddpm studio printed", 403)
        return None


async def body_of(request: Request) -> bytes:
    """Returns a request's body; raises UserError, having read no more, if it is too large."""
    said = request.headers.get("content-length", "0")
    found = b""
    too_large = UserError(f"the request has more than {MOST_BODY:,} bytes; give a smaller file")
    if not said.isdecimal() or int(said) > MOST_BODY:
        raise too_large
    async for part in request.stream():
        found += part
        if len(found) > MOST_BODY:
            raise too_large
    return found


class Studio:
    """What the page asks for."""

    def __init__(self, library: Library):
        self.library, self.results, self.streams = library, Results(), Streams()

    async def page(self, request: Request) -> Response:
        name = request.path_params.get("name", "")
        if name not in PAGE:
            return PlainTextResponse("not found", 404)
        file, kind = PAGE[name]
        text = resources.files("ddpm_jax.studio").joinpath("page", file).read_text("utf-8")
        return Response(text, media_type=kind)

    async def runs(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.library.listed))

    async def about(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.library.about, _text(request, "run")))

    async def progress(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(self.library.progress, _text(request, "run")))

    async def preview(self, request: Request) -> Response:
        step = _whole(request, "step")
        found = await run_in_threadpool(self.library.preview, _text(request, "run"), step)
        return Response(found, media_type="image/png")

    async def draw(self, request: Request) -> Response:
        asked = read_request(Drawing, await body_of(request))
        return await self._streamed(lambda each: draw(self.library, self.results, asked, each))

    async def learn(self, request: Request) -> Response:
        asked = read_request(Shape, await body_of(request))
        return await self._streamed(lambda each: learn(self.library, asked, each))

    async def _streamed(self, work: Callable[[Stream], None]) -> Response:
        """Answers with the work's events; with 400 if the first one is an error."""
        stream = self.streams.start(work)
        events = stream.events()
        try:
            name, data = await anext(events)
        except BaseException:
            stream.stop()
            raise
        if name == "error":
            await events.aclose()
            return JSONResponse(data, 400)

        async def texts() -> AsyncIterator[str]:
            async with aclosing(events):
                yield as_text(name, data)
                async for event in events:
                    yield as_text(*event)

        return StreamingResponse(texts(), media_type="text/event-stream")

    async def picture(self, request: Request) -> Response:
        """Keeps a dropped picture as a result, at the size of a run's pictures."""
        name, encoded = _text(request, "run"), await body_of(request)

        def keep() -> str:
            pixels = decoded(encoded, tuple(self.library.about(name)["shape"]))
            return self.results.add(Result(Samples(pixels[None], None, None, None)))

        return JSONResponse({"result": await run_in_threadpool(keep)})

    async def board(self, request: Request) -> Response:
        """Answers with a result's pictures, each pixel as it is."""
        samples = self.results[_text(request, "result")].samples
        require(samples.samples.ndim == 4, "result", "a set of points", "one of pictures")
        pixels = frames.board(samples.samples, samples.shown)
        return Response(frames.png(pixels), media_type="image/png")

    async def save(self, request: Request) -> Response:
        kind = _text(request, "kind")
        found = await run_in_threadpool(self.results.saved, _text(request, "result"), kind)
        named = {"content-disposition": f'attachment; filename="samples.{kind}"'}
        return Response(found, media_type=KINDS[kind], headers=named)

    async def score(self, request: Request) -> Response:
        """Answers with the learned score at points on a square grid, at one time."""
        asked = read_request(Arrows, _text(request, "asked").encode())

        def arrows() -> dict[str, str]:
            opened = self.library.open(asked)
            asked.check(opened.run.config)
            label = None if asked.label is None else int(opened.run.labels([asked.label])[0])
            side = np.linspace(-asked.reach, asked.reach, _ARROWS)
            grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
            found = opened.score(grid, asked.t, label)
            return {"points": frames.numbers(grid), "score": frames.numbers(found)}

        return JSONResponse(await run_in_threadpool(arrows))


def _text(request: Request, name: str) -> str:
    if name not in request.query_params:
        raise UserError(f"{name} is missing")
    return request.query_params[name]


def _whole(request: Request, name: str) -> int:
    text = _text(request, name)
    require(text.isascii() and text.isdecimal() and len(text) < 10, name, text, "a whole number")
    return int(text)


async def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400)


def make_app(library: Library, *, token: str, port: int) -> Guard:
    """Returns the studio over some runs, for a server that listens at 127.0.0.1:port."""
    studio = Studio(library)
    gets: list[Callable[[Request], Awaitable[Response]]] = [studio.runs, studio.about]
    gets += [studio.progress, studio.preview, studio.board, studio.save, studio.score]
    posts = [studio.draw, studio.learn, studio.picture]
    routes = [Route(f"/{each.__name__}", each, methods=["GET"]) for each in gets]
    routes += [Route(f"/{each.__name__}", each, methods=["POST"]) for each in posts]
    routes += [Route("/", studio.page), Route("/{name}", studio.page)]
    handlers: Any = {UserError: _refused}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.state.studio = studio
    return Guard(app, token=token, port=port)
