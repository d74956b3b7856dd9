"""The HTTP API of a run, and its page.

FastAPI reads the annotations of what answers requests, so they stay values here.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typing_extensions import TypedDict

from fastlift import __version__
from fastlift.models.lift import LiftModel
from fastlift.models.prediction.result import AnswerSettings
from fastlift.serving.batcher import Batcher, Refused
from fastlift.serving.settings import ServingSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

PAGE = Path(__file__).parent / "page"
FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
# Nothing from elsewhere, nothing inline; images of the page are those that the user chose.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_BODY = {
    "requestBody": {
        "required": True,
        "description": "The file of one image: JPEG, PNG, WebP, BMP or TIFF.",
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/*", "application/octet-stream")
        },
    }
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    408: {"description": "The image did not come in time."},
    413: {"description": "The file or the image is too large."},
    415: {"description": "It is no image, or of a type that is not taken."},
    422: {"description": "The image is damaged, or a parameter is out of range."},
    503: {"description": "Too many images wait, or there was no answer in time."},
}


# A dictionary, since no field of a class can be called "class".
ClassProbability = TypedDict("ClassProbability", {"class": str, "probability": float})


class Answer(TypedDict):
    """What the model says of an image: the most probable classes, best first, with the softmax over all classes.

    ``answer`` is the first of them if its probability is at least the threshold, else null: none of these. ``milliseconds`` is
    the time from the last byte of the request on.
    """

    answer: str | None
    top: list[ClassProbability]
    features: list[float] | None
    milliseconds: float


class Model(TypedDict):
    """What is served, and the limits of the server; ``image_size`` is the side of the model's crop in pixels.

    ``calibrated``: whether probabilities are those of ``fastlift calibrate``; ``threshold``: the least probability of an answer
    where a request names none.
    """

    name: str
    classes: list[str]
    image_size: int
    calibrated: bool
    threshold: float
    max_megabytes: float
    max_megapixels: float
    fastlift: str


class Health(TypedDict):
    """That the server is there."""

    status: str


def make_app(name: str, model: LiftModel, batcher: Batcher, settings: ServingSettings, hosts: list[str]) -> "FastAPI":
    """The application that serves a model.

    Args:
        name: what the model is called.
        batcher: of the model, entered.
        settings: the limits.
        hosts: names by which the server may be called (the header Host), so that no page from elsewhere reaches a server of
            this machine alone by a name of its own; ["*"] for any.
    """
    from fastapi import FastAPI, HTTPException, Query, Request, Response
    from fastapi.middleware.trustedhost import TrustedHostMiddleware

    # No pages of FastAPI's own: they load scripts from elsewhere.
    app = FastAPI(title=f"fastlift: {name}", version=__version__, docs_url=None, redoc_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    classes, least = list(model.class_names), model.threshold_or(None)

    @app.middleware("http")
    async def with_headers(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        response = await go_on(request)
        for header, value in HEADERS.items():
            response.headers.setdefault(header, value)
        return response

    @app.post("/predict", responses=_ERRORS, openapi_extra=_BODY)
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, le=len(classes), description="How many classes.")] = min(5, len(classes)),
        threshold: Annotated[float, Query(ge=0, le=1, description="Below this probability: none of these.")] = least,
        features: Annotated[bool, Query(description="Also give the backbone's features.")] = False,
    ) -> Answer:
        """The most probable classes of the image in the body."""
        try:
            data = await _body(request, settings)
            started = time.perf_counter()
            found = await batcher.predict(data, AnswerSettings(top, threshold), features, settings.seconds)
        except Refused as refused:
            after = {"Retry-After": "1"} if refused.status == 503 else None
            raise HTTPException(refused.status, str(refused), headers=after) from None
        told = found.to_dict()
        vector = None if found.features is None else found.features.tolist()
        took = round(1000 * (time.perf_counter() - started), 2)
        return Answer(answer=told["answer"], top=told["top"], features=vector, milliseconds=took)

    @app.get("/model")
    async def about() -> Model:
        """The classes of the model, and the limits of this server."""
        return Model(
            name=name,
            classes=classes,
            image_size=model.preprocessing.image_size,
            calibrated=model.calibration is not None,
            threshold=least,
            max_megabytes=settings.max_megabytes,
            max_megapixels=settings.max_megapixels,
            fastlift=__version__,
        )

    @app.get("/health")
    async def health() -> Health:
        """Answers as long as the server is there."""
        return Health(status="ok")

    for path, (file, kind) in FILES.items():
        _add_file(app, path, PAGE / file, kind)
    return app


def _add_file(app: "FastAPI", path: str, file: Path, kind: str) -> None:
    from fastapi.responses import FileResponse

    @app.get(path, include_in_schema=False)
    async def answer() -> FileResponse:
        return FileResponse(file, media_type=kind)


async def _body(request: Any, settings: ServingSettings) -> bytes:
    """The body, as long as it is of the right type, not too large, and comes in time; raises Refused."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not kind.startswith("image/") and kind != "application/octet-stream":
        # Other types could be sent from any page on the web, without the browser asking first whether it may.
        raise Refused(
            415, "send the file of an image as the body, as Content-Type image/... or application/octet-stream"
        )
    from starlette.requests import ClientDisconnect

    too_large = Refused(413, f"the file is too large; at most {settings.max_megabytes:g} megabytes are taken")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > settings.most_bytes:
        raise too_large

    async def read() -> bytes:
        data = bytearray()
        async for part in request.stream():
            data += part
            if len(data) > settings.most_bytes:
                raise too_large
        return bytes(data)

    try:
        return await asyncio.wait_for(read(), settings.seconds)
    except asyncio.TimeoutError:
        raise Refused(408, f"the image did not come within {settings.seconds:g} seconds") from None
    except ClientDisconnect:  # nobody reads this; without it the server would tell of an error of its own
        raise Refused(400, "the connection was closed before all of the image had come") from None
