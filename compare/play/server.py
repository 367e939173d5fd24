"""The playground's server: the page and its JSON API.

    GET  /networks                              the tracks, the networks, the largest picture in bytes
    POST /warm?network=NAME&track=jax           compiles a network in a track
    POST /answer?network=NAME&noise=0.2&...     an image file in, predictions and activations out;
                                                class=7 adds the gradients of that logit, adversarial=1 changes
                                                the picture by the smallest step that changes the prediction

Networks are addressed by a name from /networks, never by a path. An error is one line: {"error": "..."}.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from compare.errors import UserError
from compare.play.answers import Disturbance, Playground

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": PAGE / "index.html",
    "/play.css": PAGE / "play.css",
    "/play.js": PAGE / "play.js",
    "/report.css": Path(__file__).parents[1] / "report" / "html" / "style.css",
}
BODY_LIMIT = 8_000_000  # bytes: a photo fits
LIMITS = {"noise": (0, 1), "right": (-64, 64), "down": (-64, 64), "turn": (-360, 360)}
HEADERS = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
]


def application(playground: Playground, hosts: Sequence[str]) -> Starlette:
    """Build the application; ``hosts`` are the host names that requests may use."""
    worker = ThreadPoolExecutor(max_workers=1)  # the frameworks take turns, always in the same thread
    first = playground.chosen
    begun = {(first, track): worker.submit(playground.warm, first, track) for track in playground.tracks}

    @contextlib.asynccontextmanager
    async def living(app: Starlette) -> AsyncIterator[None]:
        yield
        worker.shutdown(wait=False, cancel_futures=True)

    def networks(request: Request) -> Response:
        return JSONResponse(playground.listing() | {"limit": BODY_LIMIT})

    async def warm(request: Request) -> Response:
        asked = request.query_params.get("network", ""), request.query_params.get("track", "")
        done = begun.pop(asked, None) or worker.submit(playground.warm, *asked)
        return JSONResponse(await asyncio.wrap_future(done))

    async def answer(request: Request) -> Response:
        kind = request.headers.get("content-type", "application/octet-stream")
        if not kind.startswith("image/"):
            raise HTTPException(415, f"unsupported file type {kind}: upload a PNG or JPEG file")
        disturbance = Disturbance(**{name: number(request, name) for name in LIMITS})
        ask = functools.partial(
            playground.answer,
            request.query_params.get("network", ""),
            await request.body(),
            disturbance,
            chosen=chosen(request),
            adversarial=request.query_params.get("adversarial") == "1",
        )
        return JSONResponse(await asyncio.wrap_future(worker.submit(ask)))

    return Starlette(
        routes=[
            *(Route(path, file(content)) for path, content in FILES.items()),
            Route("/networks", networks),
            Route("/warm", warm, methods=["POST"]),
            Route("/answer", answer, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
        exception_handlers={UserError: error_response, HTTPException: error_response},
        lifespan=living,
        max_body_size=BODY_LIMIT,
    )


def file(path: Path) -> Callable[[Request], Response]:
    """A route that sends a file."""
    return lambda request: FileResponse(path)


def number(request: Request, name: str) -> float:
    """Read a number from the query string; 0 if it is absent."""
    low, high = LIMITS[name]
    try:
        value = float(request.query_params.get(name, 0))
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise UserError(f"invalid {name} {request.query_params[name]}: expected a number from {low} to {high}")
    return value


def chosen(request: Request) -> int | None:
    """Read the index of a class from the query string."""
    value = request.query_params.get("class")
    if value is not None and not (value.isdecimal() and len(value) < 6):
        raise UserError(f"invalid class {value}: expected the index of a class")
    return None if value is None else int(value)


def error_response(request: Request, error: Exception) -> Response:
    """Return an error as one line of JSON."""
    status = error.status_code if isinstance(error, HTTPException) else 400
    return JSONResponse({"error": error.detail if isinstance(error, HTTPException) else str(error)}, status)


def server(playground: Playground, hosts: Sequence[str]) -> uvicorn.Server:
    """Return the server; pass its ``run`` a listening socket."""
    config = uvicorn.Config(
        application(playground, hosts),
        log_level="warning",
        headers=HEADERS,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    return uvicorn.Server(config)
