"""Every error as RFC 9457 problem details with a stable `code`; what is not ours to tell becomes INTERNAL."""

from __future__ import annotations

import logging
import time
import uuid
from http import HTTPStatus

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler

from callboard_http.deps import DEPS
from callboard_http.metrics import REQUEST_SECONDS
from callboard_runtime.errors import CallboardError, Unavailable
from callboard_runtime.persistence.database import is_outage

logger = logging.getLogger(__name__)

CONTENT_TYPE = "application/problem+json"
CODES = {
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    408: "REQUEST_TIMEOUT",
    413: "TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
}


@web.middleware
async def problems(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into a problem response, and count the answer."""
    began = time.perf_counter()
    try:
        response = await handler(request)
    except CallboardError as error:
        response = _problem(request, error.status, error.code, error.message, error.retry_after)
    except web.HTTPException as error:
        response = error if error.status < 400 else _http_problem(request, error)
    except Exception as error:  # noqa: BLE001 - the last resort: a bug must not show its inside
        response = _unexpected(request, error)
    _count(request, response, time.perf_counter() - began)
    if isinstance(response, web.HTTPException):
        raise response
    return response


def problem(request: web.Request, error: CallboardError) -> web.Response:
    """The response for an error that a handler deals with itself."""
    return _problem(request, error.status, error.code, error.message, error.retry_after)


def document(status: int, code: str, detail: str, instance: str, **more: str | int) -> dict[str, str | int]:
    """The members of a problem; `instance` is what was asked for."""
    title = HTTPStatus(status).phrase
    about = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return {**about, "instance": instance, "code": code, **more}


def _problem(
    request: web.Request, status: int, code: str, detail: str, retry_after: int | None = None, **more: str
) -> web.Response:
    request.app[DEPS].metrics.problems[_route(request), code] += 1
    body = document(status, code, detail, request.path, **more)
    response = web.Response(status=status, body=orjson.dumps(body), content_type=CONTENT_TYPE)
    wait = retry_after or (1 if status == HTTPStatus.SERVICE_UNAVAILABLE else None)
    if wait:
        response.headers["Retry-After"] = str(wait)
    if status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="callboard"'
    return response


def _http_problem(request: web.Request, error: web.HTTPException) -> web.Response:
    response = _problem(request, error.status, CODES.get(error.status, "REFUSED"), _detail(request, error))
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


def _detail(request: web.Request, error: web.HTTPException) -> str:
    match error.status:
        case 404:
            return f"there is no {request.path}"
        case 405:
            return f"{request.path} does not take {request.method}"
        case 408:
            return f"the body did not arrive within {request.app[DEPS].settings.http.body_timeout:g} s"
        case 413:
            return f"the body may have {request.app[DEPS].settings.http.max_body_bytes} bytes"
        case _:
            return error.reason


def _unexpected(request: web.Request, error: Exception) -> web.Response:
    if is_outage(error):
        away = Unavailable(retry_after=1)
        return _problem(request, away.status, away.code, away.message, away.retry_after)
    request_id = uuid.uuid4().hex
    logger.error(
        "request %s failed: %s", request_id, type(error).__name__, exc_info=error, extra={"action": "request_failed"}
    )
    detail = "Something went wrong here; the request id finds it in our log."
    return _problem(request, 500, "INTERNAL", detail, request_id=request_id)


def _count(request: web.Request, response: web.StreamResponse, seconds: float) -> None:
    route = _route(request)
    request.app[DEPS].metrics.requests[route, response.status] += 1
    if isinstance(response, web.Response):
        REQUEST_SECONDS.labels(route).observe(seconds)


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource else "unknown"
