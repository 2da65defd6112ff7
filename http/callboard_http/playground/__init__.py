"""The page at `/`: a playground for people, and what it asks of its own server."""

from callboard_http.playground.routes import ROUTES

__all__ = ["ROUTES"]
