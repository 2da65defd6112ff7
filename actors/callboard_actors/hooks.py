"""Which webhooks hear of what: each announcement becomes one delivery per URL.

In: an announcement, `CALLBOARD_WEBHOOKS__…`. Out: rows of `webhook_deliveries`, for the same commit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import NAMESPACE_URL, UUID, uuid5

from callboard_actors.announcements import Announcement
from callboard_runtime.settings import WebhookSettings


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A configured URL: `id` stands for it in the database, where `shown` is without its query."""

    id: UUID
    url: str
    shown: str

    @classmethod
    def of(cls, url: str) -> Endpoint:
        return cls(uuid5(NAMESPACE_URL, url), url, urlunsplit(urlsplit(url)._replace(query="")))


@dataclass(frozen=True, slots=True)
class Hooks:
    """The endpoints and the names of the events that they are told."""

    endpoints: tuple[Endpoint, ...] = ()
    events: frozenset[str] = frozenset()

    @classmethod
    def of(cls, settings: WebhookSettings) -> Hooks:
        return cls(tuple(map(Endpoint.of, settings.urls)), frozenset(settings.events))

    def deliveries(self, told: Announcement, session_id: UUID) -> Iterator[dict[str, Any]]:
        """The rows for one announcement; a copy of it has the same ids."""
        if told.name not in self.events:
            return
        about = {"event_id": told.id, "type": told.body["type"], "session_id": session_id, "run_id": told.run_id}
        for endpoint in self.endpoints:
            place = {"id": uuid5(told.id, endpoint.url), "endpoint": endpoint.id, "url": endpoint.shown}
            yield {**place, **about, "body": told.body}


NO_HOOKS = Hooks()
