"""What a webhook is: its signature, its retries, its end, its addresses, and which rows a commit writes for it."""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from standardwebhooks import Webhook, WebhookVerificationError

from callboard_actors.announcements import Announcement
from callboard_actors.hooks import Hooks
from callboard_actors.webhook_post import Outcome, PrivateAddress, public_socket, retry_after, signed_headers
from callboard_actors.webhooks import Claimed, is_over, retry_delay
from callboard_http.openapi.document import document
from callboard_runtime.broker.messages import RunEvent
from callboard_runtime.errors import SettingsError
from callboard_runtime.settings import Settings, WebhookSettings
from callboard_runtime.webhook_rules import is_public
from unit import docs_pages as docs

PAGE = docs.ROOT / "docs" / "webhooks.md"
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EVENT = UUID(int=7)


def configured(**values: object) -> WebhookSettings:
    return WebhookSettings.model_validate({"urls": "https://example.com/hook", "secret": SECRET} | values)


# -- the signature ----------------------------------------------------------------------------------------------------


def test_a_signature_is_the_hmac_of_id_time_and_body() -> None:
    headers = signed_headers([SecretStr(SECRET)], EVENT, NOW, b'{"a":1}')
    text = b'00000000-0000-0000-0000-000000000007.1767323045.{"a":1}'
    expected = base64.b64encode(hmac.digest(b"k" * 32, text, hashlib.sha256)).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == (str(EVENT), "1767323045")


def test_while_secrets_change_both_sign() -> None:
    now = datetime.now(UTC)
    headers = signed_headers([SecretStr(SECRET), SecretStr(OTHER)], EVENT, now, b"{}")
    assert Webhook(SECRET).verify(b"{}", headers) == Webhook(OTHER).verify(b"{}", headers) == {}
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + base64.b64encode(b"x" * 32).decode()).verify(b"{}", headers)


def _programs() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for program in docs.blocks(PAGE, "python"):
        found.append({})
        exec(compile(program, "example", "exec"), found[-1])
    return found


def test_the_examples_of_the_page_take_what_is_sent_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    library, plain = _programs()
    [example] = docs.blocks(PAGE, "json")
    body, now = orjson.dumps(orjson.loads(example)), datetime.now(UTC)
    secrets = [SecretStr(OTHER), SecretStr(SECRET)]
    headers = signed_headers(secrets, EVENT, now, body)
    old = signed_headers(secrets, EVENT, now - timedelta(minutes=10), body)
    assert [library["receive"](SECRET, headers, body) for _ in range(2)] == [204, 204]
    assert capsys.readouterr().out == "run.finished run-1\n"
    assert plain["is_genuine"](SECRET, headers, body)
    for given_headers, given_body in ((headers, body + b" "), (old, body), (headers | {"webhook-id": "x"}, body)):
        assert library["receive"](SECRET, given_headers, given_body) == 401
        assert not plain["is_genuine"](SECRET, given_headers, given_body)


def test_the_example_of_the_page_is_an_event() -> None:
    [example] = docs.blocks(PAGE, "json")
    event = RunEvent.model_validate_json(example)
    assert orjson.loads(example).keys() == event.model_dump(exclude={"pending"}).keys()


def test_the_openapi_document_describes_what_is_sent() -> None:
    sent = document()["webhooks"]["runEvent"]["post"]
    named = {parameter["name"] for parameter in sent["parameters"]}
    assert named == {name for name in signed_headers([], EVENT, NOW, b"") if name.startswith("webhook-")}


# -- retries ----------------------------------------------------------------------------------------------------------

LUCK = st.floats(0, 1)


@given(st.integers(1, 10_000), LUCK, st.floats(0, 1e9))
def test_a_wait_is_bounded_and_never_shorter_than_asked_for(attempts: int, luck: float, asked: float) -> None:
    settings = configured()
    delay = retry_delay(settings, attempts, asked, luck)
    assert settings.first_retry / 2 <= delay <= settings.longest_retry
    assert delay >= min(asked, settings.longest_retry)


@given(st.integers(1, 8), LUCK, LUCK)
def test_waits_grow(attempts: int, luck: float, later: float) -> None:
    settings = configured()
    assert retry_delay(settings, attempts + 1, 0, later) >= retry_delay(settings, attempts, 0, luck)
    assert retry_delay(settings, attempts, 0, 1) == 5 * 2 ** (attempts - 1)


def claimed(attempts: int = 1, age: float = 0) -> Claimed:
    return Claimed(uuid4(), EVENT, {}, attempts, age)


def test_a_delivery_ends_by_number_by_age_and_by_410() -> None:
    settings, failed = configured(max_attempts=5, max_age=100), Outcome(500, "no")
    assert not is_over(settings, claimed(4, 80), failed, 20)
    assert is_over(settings, claimed(5), failed, 1)
    assert is_over(settings, claimed(1, 80), failed, 21)
    assert is_over(settings, claimed(), Outcome(410, "no"), 1)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, 0),
        ("120", 120),
        (" 7 ", 7),
        ("-1", 0),
        ("1.5", 0),
        ("soon", 0),
        ("²", 0),
        ("9" * 400, 999_999_999_999),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0),
        ("Fri, 02 Jan 2026 03:05:05 -0000", 60),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float) -> None:
    assert retry_after(value, NOW) == seconds


@given(st.text())
def test_no_retry_after_can_fail(value: str) -> None:
    assert retry_after(value, NOW) >= 0


# -- addresses --------------------------------------------------------------------------------------------------------

PRIVATE_V4 = [
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.2.0/24",
    "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
]  # fmt: skip
PRIVATE_V6 = ["::/127", "64:ff9b:1::/48", "100::/64", "2001:db8::/32", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"]


def _inside(networks: list[str]) -> st.SearchStrategy[Any]:
    return st.sampled_from(networks).flatmap(lambda network: st.ip_addresses(network=ip_network(network)))


@given(_inside(PRIVATE_V4))
def test_no_private_ipv4_address_is_public_in_any_form(ip: IPv4Address) -> None:
    number = int(ip)
    forms = [
        IPv6Address(int(IPv6Address("::ffff:0:0")) | number),
        IPv6Address(int(IPv6Address("64:ff9b::")) | number),
        IPv6Address(int(IPv6Address("2002::")) | number << 80),
        IPv6Address(number),
    ]
    assert not any(is_public(str(form)) for form in (ip, *forms))


@given(_inside(PRIVATE_V6), st.sampled_from(["", "%eth0", "%1"]))
def test_no_private_ipv6_address_is_public(ip: IPv6Address, zone: str) -> None:
    assert not is_public(f"{ip}{zone}")


@given(st.ip_addresses(v=4))
def test_what_is_public_is_in_no_private_network(ip: IPv4Address) -> None:
    private = any(ip in ip_network(network) for network in PRIVATE_V4)
    assert not (is_public(str(ip)) and private)
    if is_public(str(ip)):
        assert is_public(f"::ffff:{ip}")
        assert is_public(str(IPv6Address(int(IPv6Network("64:ff9b::/96").network_address) | int(ip))))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001::1", "2002:808:808::"]
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


def test_a_socket_is_made_for_public_addresses_only() -> None:
    stream = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    with pytest.raises(PrivateAddress, match="ALLOW_PRIVATE"):
        public_socket((*stream, ("127.0.0.1", 443)))
    public_socket((*stream, ("8.8.8.8", 443))).close()


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"urls": "https://example.com/x"}, "SECRET: must be set"),
        ({"urls": "https://example.com/x", "secret": "hunter2"}, "SECRET: must be `whsec_`"),
        ({"secret": "whsec_" + base64.b64encode(b"short").decode()}, "24 to 64 bytes"),
        ({"secret": SECRET, "old_secret": "x"}, "OLD_SECRET"),
        ({"secret": SECRET, "urls": "example.com"}, "URLS: URL 1 is no URL"),
        ({"secret": SECRET, "urls": "https://a.example,https://[x"}, "URLS: URL 2 is no URL"),
        ({"secret": SECRET, "urls": "https://host:port/"}, "is no URL"),
        ({"secret": SECRET, "urls": "https://u:hunter2@a.example"}, "no user, password"),
        ({"secret": SECRET, "urls": "http://a.example"}, "must be https://"),
        ({"secret": SECRET, "urls": "https://[::1]/x"}, "private address"),
        ({"secret": SECRET, "urls": "https://localhost/x"}, "private address"),
        ({"events": "finished,finnished"}, "EVENTS: there is no event 'finnished'"),
    ],
)
def test_a_wrong_setting_is_named_with_its_fix_and_no_secret(values: dict[str, str], told: str) -> None:
    with pytest.raises(SettingsError, match="CALLBOARD_WEBHOOKS__") as error:
        Settings(webhooks=values)
    assert told in str(error.value)
    assert "hunter2" not in str(error.value)


def test_the_example_of_the_page_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    [block] = docs.blocks(PAGE, "ini")
    for line in block.splitlines():
        monkeypatch.setenv(*line.split("=", 1))
    settings = Settings().webhooks
    assert settings.urls == ("https://example.com/hooks/callboard",)
    assert settings.secret is not None


def test_private_addresses_and_plain_http_can_be_allowed() -> None:
    settings = configured(urls="http://localhost:1/a?token=hunter2, https://10.0.0.1", allow_private=True)
    assert settings.urls == ("http://localhost:1/a?token=hunter2", "https://10.0.0.1")
    assert SECRET not in repr(settings)


# -- rows -------------------------------------------------------------------------------------------------------------


def told(name: str = "finished") -> Announcement:
    return Announcement(EVENT, uuid4(), name, {"id": str(EVENT), "type": f"run.{name}"})


def test_every_url_has_a_row_of_its_own_and_a_copy_has_the_same() -> None:
    hooks = Hooks.of(configured(urls="https://a.example/x?token=hunter2,https://b.example"))
    event, session = told(), uuid4()
    rows = list(hooks.deliveries(event, session))
    assert rows == list(hooks.deliveries(event, session))
    assert len({row["id"] for row in rows}) == len({row["endpoint"] for row in rows}) == 2
    assert [row["url"] for row in rows] == ["https://a.example/x", "https://b.example"]
    assert {row["event_id"] for row in rows} == {EVENT}
    assert "hunter2" not in repr(rows)


def test_only_the_events_that_are_wanted_are_told() -> None:
    assert list(Hooks.of(configured()).deliveries(told("started"), uuid4())) == []
    assert len(list(Hooks.of(configured(events="started")).deliveries(told("started"), uuid4()))) == 1
    assert list(Hooks.of(WebhookSettings()).deliveries(told(), uuid4())) == []
