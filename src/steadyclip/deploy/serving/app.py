"""The service: what the hub's clients, the Open Inference Protocol, Prometheus and a browser ask for.

Shapes: H W pixels, C classes, D feature width.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import numpy as np
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from steadyclip import __version__
from steadyclip.core.errors import SteadyClipError
from steadyclip.core.words import counted
from steadyclip.deploy.decoding import Decoder, TooLarge
from steadyclip.deploy.page import asset, page_of
from steadyclip.deploy.serving import requests
from steadyclip.deploy.serving.batching import Batcher, Full, Kind
from steadyclip.deploy.serving.guard import Guard, Refusal

if TYPE_CHECKING:
    from steadyclip.deploy.predictor import Predictor

T = TypeVar("T")
_PATHS = (
    "/",
    "/predict",
    "/embed",
    "/about",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/v2/health/live",
    "/v2/health/ready",
)
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob: data:; connect-src 'self'"
)
_NAME_SETS = 64
_TOP = 5


@dataclass(frozen=True)
class Limits:
    """What a client may ask for.

    Attributes:
        most_bytes: of a body.
        most_pixels: of an image, by its header.
        body_seconds, answer_seconds: for sending a body, and for an answer.
        rows, wait_seconds, waiting: see ``Batcher``.
    """

    most_bytes: int = 10 * 2**20
    most_pixels: int = 40_000_000
    body_seconds: float = 30.0
    answer_seconds: float = 30.0
    rows: int = 32
    wait_seconds: float = 0.005
    waiting: int = 256


class Service:
    """A predictor behind HTTP; ``app`` is its ASGI application.

    Args:
        predictor: what answers.
        name: of the model, in paths and on the page.
        before: the pretrained model for the same names, for comparison on the page.
        token: see ``Guard``.
        origins: web sites whose pages may send requests (CORS); none by default.
        workers: processes that decode; 0 decodes on threads.
    """

    def __init__(
        self, predictor: Predictor, name: str, *, before: Predictor | None = None, token: str | None = None,
        origins: tuple[str, ...] = (), workers: int = 0, limits: Limits | None = None,
    ) -> None:  # fmt: skip
        self.predictor, self.before, self.name, self.limits = predictor, before, name, limits or Limits()
        registry = CollectorRegistry()
        self.registry = registry
        self._requests = Counter(
            "steadyclip_requests", "Answers by path and code.", ["path", "code"], registry=registry
        )
        self._seconds = Histogram("steadyclip_seconds", "Time of an answer.", ["path"], registry=registry)
        sizes = [1, 2, 4, 8, 16, 32, 64]
        self._rows = Histogram("steadyclip_batch_rows", "Images in a batch.", buckets=sizes, registry=registry)
        waiting = Gauge("steadyclip_waiting", "Images that wait for the model.", registry=registry)
        limits = self.limits
        self.batcher = Batcher(limits.rows, limits.wait_seconds, limits.waiting, self._rows.observe)
        waiting.set_function(lambda: self.batcher.waiting)
        self.decoder = Decoder(predictor.engine.pixels, workers, limits.most_pixels)
        self._renamed = functools.lru_cache(_NAME_SETS)(predictor.with_names)
        self.app = self._build(token, origins)

    def _build(self, token: str | None, origins: tuple[str, ...]) -> FastAPI:
        app = FastAPI(title=f"steadyclip: {self.name}", version=__version__, lifespan=self._running)
        app.add_middleware(
            Guard,
            token=token,
            most_bytes=self.limits.most_bytes,
            body_seconds=self.limits.body_seconds,
            seen=self._seen,
        )
        if origins:  # in front of the guard, as a browser's question beforehand carries no token
            from fastapi.middleware.cors import CORSMiddleware

            app.add_middleware(
                CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["*"]
            )
        app.add_exception_handler(Refusal, _refused)
        app.add_exception_handler(HTTPException, _not_here)
        app.add_exception_handler(ClientDisconnect, _gone)
        app.add_exception_handler(Exception, _failed)
        image = {"schema": {"type": "string", "format": "binary"}}
        bodies = {"requestBody": {"content": {"image/*": image, "application/json": {"schema": {"type": "object"}}}}}
        app.add_api_route("/predict", self.predict, methods=["POST"], openapi_extra=bodies)
        app.add_api_route("/embed", self.embed, methods=["POST"], openapi_extra=bodies)
        app.add_api_route("/about", self.about, methods=["GET"])
        app.add_api_route("/metrics", self.metrics, methods=["GET"])
        app.add_api_route("/", self.page, methods=["GET"], include_in_schema=False)
        app.add_api_route("/v2/health/live", _live, methods=["GET"])
        app.add_api_route("/v2/health/ready", _ready, methods=["GET"])
        app.add_api_route("/v2/models/{model}", self.model, methods=["GET"])
        app.add_api_route("/v2/models/{model}/ready", self.model_ready, methods=["GET"])
        app.add_api_route("/v2/models/{model}/infer", self.infer, methods=["POST"])
        return app

    @asynccontextmanager
    async def _running(self, app: FastAPI) -> AsyncIterator[None]:
        with self.decoder:
            self.batcher.start()
            yield
            await self.batcher.stop()

    def _seen(self, path: str, status: int, seconds: float) -> None:
        known = path if path in _PATHS else "/v2/models" if path.startswith("/v2/models/") else "other"
        self._requests.labels(known, status).inc()
        self._seconds.labels(known).observe(seconds)

    # ---- answers

    async def predict(self, request: Request) -> Response:
        """The best names of one image: its bytes as the body, or the hub's JSON (``inputs`` in base64, ``parameters``).

        The answer is ``[{"label", "score"}, ...]``, best first; ``x-label`` is empty where the model is unsure.
        """
        kind = requests.kind_of(request.headers)
        asked = requests.asked_for(kind, await request.body(), request.query_params)
        return await self._within(request, self._predict(asked, before=request.query_params.get("before") == "1"))

    async def _predict(self, asked: requests.Asked, before: bool) -> Response:
        predictor = self.predictor
        if before:
            if self.before is None:
                raise Refusal(404, "the model before the training is not served here.")
            predictor = self.before
        elif asked.names or asked.template:
            predictor = await self._with_names(asked)
        row_C = await self._row(predictor, "probabilities", asked.picture)
        cut = predictor.threshold if asked.threshold is None else asked.threshold
        top = asked.top or (len(predictor.names) if asked.names else _TOP)
        found = predictor.prediction("", row_C, top, cut)
        answers = [
            {"label": name, "score": value} for name, value in zip(found.names, found.probabilities, strict=True)
        ]
        headers = {"x-label": quote(found.label), "x-threshold": "" if cut is None else f"{cut:.6g}"}
        return JSONResponse(answers, headers=headers | {"x-model": predictor.hash})

    async def _with_names(self, asked: requests.Asked) -> Predictor:
        names, templates = asked.names or self.predictor.names, (asked.template,) if asked.template else ()
        try:
            found: Any = await self.batcher.call(lambda: self._renamed(names, templates))
        except SteadyClipError as error:
            raise Refusal(422, str(error)) from None
        return found

    async def embed(self, request: Request) -> Response:
        """Features of length 1: of one image, in the bodies of /predict, or of ``{"texts": [...]}``."""
        kind = requests.kind_of(request.headers)
        body = await request.body()
        if kind == "json" and "texts" in (content := requests.parsed(body)):
            texts = requests.texts_of(content["texts"], "texts")
            return await self._within(request, self._texts(texts))
        return await self._within(request, self._features(requests.asked_for(kind, body, {}).picture))

    async def _texts(self, texts: tuple[str, ...]) -> Response:
        try:
            rows: Any = await self.batcher.call(lambda: self.predictor.embed_text(texts))
        except SteadyClipError as error:
            raise Refusal(422, str(error)) from None
        return self._embedded(rows)

    async def _features(self, picture: bytes) -> Response:
        return self._embedded((await self._row(self.predictor, "features", picture))[None])

    def _embedded(self, rows: np.ndarray) -> Response:
        weights = self.predictor.engine.weights
        return JSONResponse({"embeddings": rows.tolist(), "dim": rows.shape[1], "model": weights})

    async def infer(self, model: str, request: Request) -> Response:
        """The Open Inference Protocol: images in base64 as BYTES, probabilities as FP32."""
        self._need(model)
        if requests.kind_of(request.headers) != "json":
            raise Refusal(415, "send application/json.")
        content = requests.parsed(await request.body())
        inputs = content.get("inputs")
        tensor = inputs[0] if isinstance(inputs, list) and inputs else None
        if (
            not isinstance(tensor, dict)
            or tensor.get("datatype") != "BYTES"
            or not isinstance(tensor.get("data"), list)
        ):
            raise Refusal(
                422, 'inputs must be [{"name": "image", "datatype": "BYTES", "shape": [n], "data": [base64, ...]}].'
            )
        pictures = [requests.picture_of(value, f"data[{i}]") for i, value in enumerate(tensor["data"])]
        if not pictures:
            raise Refusal(400, "data holds no image.")
        return await self._within(request, self._infer(content.get("id"), pictures))

    async def _infer(self, id_: Any, pictures: list[bytes]) -> Response:
        self._reserve(len(pictures))
        rows = await asyncio.gather(*(self._row(self.predictor, "probabilities", each) for each in pictures))
        shape = [len(rows), len(self.predictor.names)]
        flat = [float(value) for row in rows for value in row]
        found = [self.predictor.prediction("", row, 1, self.predictor.threshold).label for row in rows]
        outputs = [
            {"name": "probabilities", "datatype": "FP32", "shape": shape, "data": flat},
            {"name": "label", "datatype": "BYTES", "shape": [len(rows)], "data": found},
        ]
        return JSONResponse(
            {"model_name": self.name, "outputs": outputs} | ({"id": id_} if isinstance(id_, str) else {})
        )

    async def _row(self, predictor: Predictor, kind: Kind, picture: bytes) -> np.ndarray:
        """Probabilities (C,) or features (D,) of the image in ``picture``."""
        self._reserve(1)
        try:
            levels = await asyncio.wrap_future(self.decoder.submit(picture, "the image"))
        except BrokenProcessPool:
            raise Refusal(503, "a decoding process died: try again.", **{"retry-after": "1"}) from None
        if isinstance(levels, TooLarge):
            raise Refusal(413, f"the image {levels}.")
        if isinstance(levels, str):
            raise Refusal(400, f"the image cannot be read: {levels}.")
        return await self.batcher.answer(predictor, kind, levels)

    def _reserve(self, images: int) -> None:
        try:
            self.batcher.reserve(images)
        except Full:
            raise Refusal(
                503,
                f"{counted(self.batcher.waiting, 'image', 'is', 'are')} waiting: try again in a second.",
                **{"retry-after": "1"},
            ) from None

    async def _within(self, request: Request, work: Awaitable[T]) -> T:
        """The result of ``work``, unless it takes too long, or the client hangs up."""
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_hang_up(request))
        try:
            seconds = self.limits.answer_seconds
            await asyncio.wait({task, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if gone.done():
                raise Refusal(499, "the client hung up.")
            raise Refusal(504, f"there was no answer within {seconds:g} s.")
        finally:
            task.cancel()
            gone.cancel()

    # ---- what it is

    def _need(self, model: str) -> None:
        if model != self.name:
            raise Refusal(404, f"there is no model {model[:80]!r}; this is {self.name!r}.")

    async def model(self, model: str) -> dict[str, Any]:
        """What the model takes and gives, by the Open Inference Protocol."""
        self._need(model)
        return {
            "name": self.name, "versions": [self.predictor.hash], "platform": "steadyclip",
            "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
            "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, len(self.predictor.names)]},
                        {"name": "label", "datatype": "BYTES", "shape": [-1]}],
        }  # fmt: skip

    async def model_ready(self, model: str) -> dict[str, Any]:
        """Whether the model answers."""
        self._need(model)
        return {"name": self.name, "ready": True}

    async def about(self) -> dict[str, Any]:
        """Class names, prompts, temperature and threshold."""
        p = self.predictor
        return {
            "name": self.name, "model": p.hash, "classes": p.names, "templates": p.templates,
            "temperature": p.temperature, "threshold": p.threshold, "before": self.before is not None,
        }  # fmt: skip

    async def metrics(self) -> Response:
        """For Prometheus."""
        return Response(generate_latest(self.registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def page(self) -> Response:
        """A page to try it on."""
        text = page_of("", f'<script type="module">\n{asset("service.js")}</script>')
        return HTMLResponse(text, headers={"content-security-policy": _POLICY, "x-content-type-options": "nosniff"})


async def _hang_up(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.2)


async def _live() -> dict[str, bool]:
    """Whether the process answers."""
    return {"live": True}


async def _ready() -> dict[str, bool]:
    """Whether the model is loaded."""
    return {"ready": True}


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return JSONResponse({"error": refusal.sentence}, refusal.status, headers=refusal.headers)


async def _not_here(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {404: "there is nothing at this path: see /docs.", 405: "this path takes another method: see /docs."}
    return JSONResponse({"error": sentence.get(error.status_code, str(error.detail))}, error.status_code)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it: for the metrics


async def _failed(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "something is wrong in the service; its log says what."}, 500)
