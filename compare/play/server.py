"""The playground's server: the page and its JSON API.

    GET  /networks                              the tracks, the networks, the largest picture in bytes
    POST /warm?network=NAME&track=jax           compiles a network in a track
    POST /answer?network=NAME&noise=0.2&...     an image file in, predictions and activations out;
                                                class=7 adds the gradients of that logit, adversarial=1 changes
                                                the picture by the smallest step that changes the prediction,
                                                step=3 adds that step of the forward and the backward pass,
                                                digit=12 asks for a test image instead of the file
    GET  /digit?network=NAME                    a test image at random; mistake=1&after=12: the next misclassified one
    GET  /unit?network=NAME&layer=0&map=3&...   the weights and the receptive field of a unit, at row and column
    POST /train?network=NAME&track=jax&steps=N  trains the network from the start
    POST /stop                                  ends that training after its current chunk
    GET  /training                              how far it is, the loss of every step; null before the first

Networks are addressed by a name from /networks, never by a path. An error is one line: {"error": "..."}.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from compare.errors import UserError
from compare.play.answers import Disturbance, Playground, Question
from compare.play.training import STEPS

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": PAGE / "index.html",
    **{f"/{path.name}": path for path in sorted(PAGE.glob("*.*s"))},  # scripts and styles
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
    worker = ThreadPoolExecutor(max_workers=1)  # answers take turns, and with the training, which has its own thread

    def in_turn(compute: Callable[..., Any], *given: Any) -> Any:
        with playground.turn:
            return compute(*given)

    async def answered(compute: Callable[..., Any], *given: Any) -> Response:
        return JSONResponse(await asyncio.wrap_future(worker.submit(in_turn, compute, *given)))

    first = playground.chosen
    begun = {(first, track): worker.submit(in_turn, playground.warm, first, track) for track in playground.tracks}

    @contextlib.asynccontextmanager
    async def living(app: Starlette) -> AsyncIterator[None]:
        yield
        if playground.training:
            playground.training.stop()
            playground.training.join()  # a framework must not compute while Python ends
        worker.shutdown(wait=False, cancel_futures=True)

    def networks(request: Request) -> Response:
        return JSONResponse(playground.listing() | {"limit": BODY_LIMIT})

    async def warm(request: Request) -> Response:
        asked = name_in(request), request.query_params.get("track", "")
        done = begun.pop(asked, None) or worker.submit(in_turn, playground.warm, *asked)
        return JSONResponse(await asyncio.wrap_future(done))

    async def answer(request: Request) -> Response:
        kind = request.headers.get("content-type", "application/octet-stream")
        if not kind.startswith("image/"):
            raise HTTPException(415, f"unsupported file type {kind}: upload a PNG or JPEG file")
        question = Question(
            await request.body(),
            digit=index(request, "digit"),
            disturbance=Disturbance(**{name: number(request, name) for name in LIMITS}),
            chosen=index(request, "class"),
            adversarial=request.query_params.get("adversarial") == "1",
            step=index(request, "step"),
        )
        return await answered(playground.answer, name_in(request), question)

    async def digit(request: Request) -> Response:
        mistake, after = request.query_params.get("mistake") == "1", index(request, "after")
        return await answered(playground.digit, name_in(request), mistake, -1 if after is None else after)

    async def unit(request: Request) -> Response:
        layer, *at = (index(request, name) or 0 for name in ("layer", "map", "row", "column"))
        return await answered(playground.unit, name_in(request), layer, tuple(at))

    async def train(request: Request) -> Response:
        require_own_page(request)
        count = index(request, "steps")
        track = request.query_params.get("track", "")
        return await answered(playground.train, name_in(request), track, STEPS if count is None else count)

    def stop(request: Request) -> Response:
        require_own_page(request)
        if playground.training:
            playground.training.stop()
        return JSONResponse({})

    def training(request: Request) -> Response:
        return JSONResponse(playground.training and playground.training.to_json())

    return Starlette(
        routes=[
            *(Route(path, file(content)) for path, content in FILES.items()),
            Route("/networks", networks),
            Route("/warm", warm, methods=["POST"]),
            Route("/answer", answer, methods=["POST"]),
            Route("/digit", digit),
            Route("/unit", unit),
            Route("/train", train, methods=["POST"]),
            Route("/stop", stop, methods=["POST"]),
            Route("/training", training),
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


def index(request: Request, name: str) -> int | None:
    """Read a whole number from the query string."""
    value = request.query_params.get(name)
    if value is not None and not (value.isdecimal() and len(value) < 8):
        raise UserError(f"invalid {name} {value}: expected a whole number from 0")
    return None if value is None else int(value)


def name_in(request: Request) -> str:
    """Read the name of the network from the query string."""
    return request.query_params.get("network", "")


def require_own_page(request: Request) -> None:
    """Refuse what a page of another site makes the browser send: it could keep this machine busy."""
    if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        raise HTTPException(403, "this request comes from another site's page")


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
