"""The spans of a front: a request, and the stream of events that it follows.

In:  requests, with the caller's `traceparent` or without
Out: server spans; a stream points at the run that it shows, which may belong to another trace
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from aiohttp import web
from aiohttp.typedefs import Handler

from callboard_http.reader import LegReader
from callboard_runtime.observe import tracing

UNSEEN = nullcontext()  # one for all streams: there may be ten thousand
UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})


@web.middleware
async def traced(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Trace the request, in its caller's trace if it names one; its path and query, which may hold ids, stay out."""
    if tracing.current is None or request.path in UNTRACED:
        return await handler(request)
    resource = request.match_info.route.resource
    route = resource.canonical if resource else "unknown"
    about = {"http.request.method": request.method, "http.route": route}
    parent = request.headers.get(tracing.HEADER)
    with tracing.span(f"{request.method} {route}", kind="server", parent=parent, attributes=about, root=True) as span:
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = error
        span.note({"http.response.status_code": response.status})
        if response.status >= 500:
            span.fail(str(response.status))
    if isinstance(response, web.HTTPException):
        raise response
    return response


def following(reader: LegReader) -> AbstractContextManager[None]:
    """Trace a stream while it is open."""
    return UNSEEN if tracing.current is None else _followed(reader)


@contextmanager
def _followed(reader: LegReader) -> Generator[None]:
    with tracing.span("stream events") as span:
        try:
            yield
        finally:
            span.link(reader.trace)
            span.note({"callboard.last_event_id": str(reader.position)})
