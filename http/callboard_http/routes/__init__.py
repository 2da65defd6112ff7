"""The HTTP surface: each module holds the handlers of one part of it."""

from callboard_http.routes import (
    agui,
    copilotkit,
    events,
    operations,
    operator,
    operator_system,
    reference,
    runs,
    sessions,
)

ROUTES = [
    *runs.ROUTES,
    *events.ROUTES,
    *sessions.ROUTES,
    *agui.ROUTES,
    *copilotkit.ROUTES,
    *operations.ROUTES,
    *operator.ROUTES,
    *operator_system.ROUTES,
    *reference.ROUTES,
]
