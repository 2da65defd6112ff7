"""Somebody else's servers, named by CALLBOARD_TEST_{AMQP,REDIS}_URL: used with care, left as they were found."""

import base64
import json
import os
import urllib.request
import uuid
from urllib.parse import quote, urlsplit, urlunsplit

from services.process import ServiceUnavailable


class OneRedisDatabase:
    """The database that the URL names; tests there are told apart by their key prefix."""

    def __init__(self, url: str) -> None:
        self._url = url

    def next_database(self) -> str:
        return self._url


class ForeignRabbit:
    """A RabbitMQ server whose management API makes a virtual host per test. Raises ServiceUnavailable without it."""

    def __init__(self, url: str) -> None:
        self._url = url
        parts = urlsplit(url)
        api = os.environ.get("CALLBOARD_TEST_RABBITMQ_API", f"http://{parts.hostname}:15672")
        self._api = f"{api.rstrip('/')}/api"
        token = f"{parts.username or 'guest'}:{parts.password or 'guest'}"
        self._authorization = f"Basic {base64.b64encode(token.encode()).decode()}"
        self._user = parts.username or "guest"
        try:
            self._call("GET", "/whoami")
        except OSError as error:
            raise ServiceUnavailable(
                f"the server of CALLBOARD_TEST_AMQP_URL needs its management API, and {api} says {error}; "
                "enable rabbitmq_management, or set CALLBOARD_TEST_RABBITMQ_API to its address"
            ) from error

    def create_vhost(self) -> str:
        name = f"cb{uuid.uuid4().hex[:12]}"
        self._call("PUT", f"/vhosts/{name}")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self._call("PUT", f"/permissions/{name}/{quote(self._user, safe='')}", everything)
        return urlunsplit(urlsplit(self._url)._replace(path=f"/{name}", query="heartbeat=10"))

    def delete_vhost(self, url: str) -> None:
        self._call("DELETE", f"/vhosts/{urlsplit(url).path.lstrip('/')}")

    def _call(self, method: str, path: str, body: dict[str, str] | None = None) -> None:
        headers = {"Authorization": self._authorization, "Content-Type": "application/json"}
        data = json.dumps(body or {}).encode() if method == "PUT" else None
        request = urllib.request.Request(self._api + path, data=data, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=10):
            pass
