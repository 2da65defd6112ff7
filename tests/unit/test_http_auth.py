"""Who is let in, and as whom: the matrix of tokens and keys, and development auth on loopback alone."""

import base64
import hashlib
import hmac
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pydantic import SecretStr

from callboard_http.auth import Authenticator, Principal, is_loopback
from callboard_http.tickets import Tickets
from callboard_runtime.errors import SettingsError, Unauthenticated
from callboard_runtime.settings import AuthSettings, HttpSettings, Settings

SECRET = "s" * 64
DAY = 24 * 3600
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def pem(key) -> str:
    public = key.public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def settings(dev_auth: bool = False, host: str = "127.0.0.1", origins: tuple[str, ...] = (), **auth) -> Settings:
    if "jwt_secret" in auth:
        auth["jwt_secret"] = SecretStr(auth["jwt_secret"])
    return Settings(
        auth=AuthSettings(**auth),
        http=HttpSettings(host=host, cors_origins=origins),
        dev_auth=dev_auth,
        database_url=SecretStr("postgresql://u:p@h/d"),
    )


def claims(**changes) -> dict:
    """Tokens are made when the tests are collected: they must outlive a slow run of the whole suite."""
    return {"sub": "alice", "exp": int(time.time()) + DAY} | changes


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


HS = Authenticator(settings(jwt_secret=SECRET))


def refused(authenticator: Authenticator, token: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        authenticator.authenticate(bearer(token))
    assert len(token) < 10 or token not in caught.value.message
    return caught.value.message


def test_each_kind_of_key_takes_its_own_algorithm():
    for key, algorithm in ((RSA_KEY, "RS256"), (EC_KEY, "ES256")):
        authenticator = Authenticator(settings(jwt_public_key=pem(key)))
        principal = authenticator.authenticate(bearer(jwt.encode(claims(roles=["operator"]), key, algorithm)))
        assert principal.user_id == "alice"
        assert principal.roles == {"operator"}
    assert HS.authenticate(bearer(jwt.encode(claims(), SECRET, "HS256"))).roles == frozenset()


def test_a_public_key_is_never_taken_for_a_shared_secret():
    """The classic confusion: HS256 with the published PEM as its secret, made by hand, as libraries refuse to."""
    public = pem(RSA_KEY)
    head, body = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in ({"alg": "HS256"}, claims())
    )
    signature = hmac.digest(public.encode(), head + b"." + body, hashlib.sha256)
    token = b".".join((head, body, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()
    assert "RS256" in refused(Authenticator(settings(jwt_public_key=public)), token)


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (jwt.encode(claims(), None, "none"), "HS256"),
        (jwt.encode(claims(), SECRET, "HS512"), "HS256"),
        (jwt.encode(claims(), RSA_KEY, "RS256"), "HS256"),
        (jwt.encode(claims(), "x" * 64, "HS256"), "signature"),
        (jwt.encode(claims(exp=int(time.time()) - 3600), SECRET, "HS256"), "expired"),
        (jwt.encode({"sub": "alice"}, SECRET, "HS256"), "`exp`"),
        (jwt.encode({"exp": int(time.time()) + DAY}, SECRET, "HS256"), "`sub`"),
        (jwt.encode(claims(sub=""), SECRET, "HS256"), "`sub`"),
        (jwt.encode(claims(sub="a\nb"), SECRET, "HS256"), "`sub`"),
        (jwt.encode(claims(sub="a" * 201), SECRET, "HS256"), "`sub`"),
        (jwt.encode(claims(nbf=int(time.time()) + DAY), SECRET, "HS256"), "not valid yet"),
        (jwt.encode(claims(exp=10**18), SECRET, "HS256"), "cannot be read"),
        (".", "cannot be read"),
        ("a.b.c", "cannot be read"),
    ],
)
def test_bad_tokens_are_refused_with_the_reason(token, reason):
    assert reason in refused(HS, token)


def segment(content: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=")


def signed(changes: dict, *, key: str = SECRET, header: dict | None = None) -> str:
    """A token such as no library would write: any claims, any header, any key."""
    text = segment({"alg": "HS256", "typ": "JWT"} | (header or {})) + b"." + segment(claims(**changes))
    mac = hmac.digest(key.encode(), text, hashlib.sha256)
    return (text + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


@pytest.mark.parametrize("alg", ["none", "None", "nOnE", "", "HS256 ", "hs256", None, ["HS256"], 0, "ES256K", "HS512"])
def test_the_algorithm_is_not_the_tokens_to_choose(alg):
    """Also with a right HMAC under the wrong name: nothing but the key's own algorithm is tried."""
    token = signed({}, header={"alg": alg})
    refused(HS, token)
    refused(HS, token.rpartition(".")[0] + ".")


@pytest.mark.parametrize(
    "header",
    [
        {"kid": "../../../../dev/null"},
        {"kid": "' UNION SELECT 'x"},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/chain.pem"},
        {"jwk": {"kty": "oct", "k": base64.urlsafe_b64encode(b"x" * 64).decode()}},
    ],
    ids=["path", "query", "jku", "x5u", "jwk"],
)
def test_a_header_brings_no_key_of_its_own(header):
    """A token names its key in vain: it counts if the configured key signed it, and else not."""
    assert HS.authenticate(bearer(jwt.encode(claims(), SECRET, "HS256", headers=header))).user_id == "alice"
    assert "signature" in refused(HS, jwt.encode(claims(), "x" * 64, "HS256", headers=header))
    assert "signature" in refused(HS, signed({}, key="", header=header))


def test_an_extension_that_must_be_understood_is_refused():
    refused(HS, jwt.encode(claims(), SECRET, "HS256", headers={"crit": ["b64"], "b64": False}))


def test_no_claim_makes_another_user_or_role():
    for changes in ({"sub": ["alice"]}, {"sub": {"x": 1}}, {"sub": 7}, {"sub": None}, {"sub": True}):
        refused(HS, signed(changes))
    for roles in ({"operator": True}, 7, None, True):
        assert HS.authenticate(bearer(signed({"roles": roles}))).roles == frozenset()


def test_issuer_and_audience_are_checked_when_configured():
    strict = Authenticator(settings(jwt_secret=SECRET, jwt_issuer="us", jwt_audience="callboard"))
    assert "`iss`" in refused(strict, jwt.encode(claims(aud="callboard"), SECRET, "HS256"))
    assert "`iss`" in refused(strict, jwt.encode(claims(aud="callboard", iss="them"), SECRET, "HS256"))
    assert "`aud`" in refused(strict, jwt.encode(claims(iss="us"), SECRET, "HS256"))
    good = jwt.encode(claims(iss="us", aud=["callboard", "other"]), SECRET, "HS256")
    assert strict.authenticate(bearer(good)).user_id == "alice"
    assert HS.authenticate(bearer(good)).user_id == "alice"


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic YTpi"}, {"Authorization": SECRET}])
def test_without_a_bearer_token_nobody_gets_in(headers):
    with pytest.raises(Unauthenticated):
        HS.authenticate(headers | {"Host": "localhost"})


def test_a_front_that_could_not_tell_users_apart_does_not_start():
    with pytest.raises(SettingsError, match=r"CALLBOARD_AUTH__JWT_SECRET.*CALLBOARD_AUTH__JWT_PUBLIC_KEY"):
        Authenticator(settings())
    with pytest.raises(SettingsError, match="keep one"):
        Authenticator(settings(jwt_secret=SECRET, jwt_public_key=pem(RSA_KEY)))
    with pytest.raises(SettingsError, match="not a PEM public key"):
        Authenticator(settings(jwt_public_key="nonsense"))
    with pytest.raises(SettingsError, match="2048 bits"):
        Authenticator(settings(jwt_public_key=pem(rsa.generate_private_key(65537, 1024))))
    with pytest.raises(SettingsError, match="P-256"):
        Authenticator(settings(jwt_public_key=pem(ec.generate_private_key(ec.SECP384R1()))))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_development_auth_refuses_any_listener_but_loopback(host):
    with pytest.raises(SettingsError, match="CALLBOARD_DEV_AUTH"):
        Authenticator(settings(dev_auth=True, host=host))


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:80", "[::1]:8000", "LOCALHOST", "127.8.8.8"]
)
def test_development_auth_takes_loopback_names(host):
    assert Authenticator(settings(dev_auth=True)).authenticate({"Host": host}).user_id == "dev"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "localhost.evil.example:8000"},
        {"Host": "evil.example#localhost"},
        {"Host": "localhost@evil.example"},
        {"Host": "[::1"},
        {"Host": ""},
        {},
        {"Host": "localhost:8000", "Origin": "https://evil.example"},
        {"Host": "localhost:8000", "Origin": "null"},
        {"Host": "localhost:8000", "Origin": "http://[::1"},
    ],
)
def test_development_auth_withstands_rebinding_and_foreign_pages(headers):
    with pytest.raises(Unauthenticated):
        Authenticator(settings(dev_auth=True)).authenticate(headers)


def test_development_auth_takes_configured_and_local_pages():
    authenticator = Authenticator(settings(dev_auth=True, origins=("https://ui.example",)))
    for origin in ("https://ui.example", "http://localhost:3000", "http://127.0.0.1:5173"):
        assert authenticator.authenticate({"Host": "localhost", "Origin": origin}).user_id == "dev"


def test_a_token_counts_under_development_auth_too():
    authenticator = Authenticator(settings(dev_auth=True, jwt_secret=SECRET))
    token = jwt.encode(claims(), SECRET, "HS256")
    assert authenticator.authenticate(bearer(token) | {"Host": "localhost"}).user_id == "alice"
    with pytest.raises(Unauthenticated):
        authenticator.authenticate(bearer("x.y.z") | {"Host": "localhost"})


def test_loopback_is_decided_by_address():
    assert all(map(is_loopback, ("127.0.0.1", "127.255.0.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.", "127.0.0.1.evil", "")))


# -- tickets ----------------------------------------------------------------------------------------------------------


def issued(**changes) -> tuple[Tickets, Principal, str]:
    tickets = Tickets(settings(jwt_secret=SECRET))
    principal = HS.authenticate(bearer(jwt.encode(claims(**changes), SECRET, "HS256")))
    return tickets, principal, tickets.issue(principal, "alice", "run-1")


def test_a_ticket_opens_one_run_of_one_user():
    tickets, principal, ticket = issued(roles=["operator"])
    assert tickets.principal(ticket, None, "run-1") == (principal, "alice")
    for owner, run in (("bob", "run-1"), (None, "run-2"), ("alice", "run-2")):
        with pytest.raises(Unauthenticated, match="another run"):
            tickets.principal(ticket, owner, run)


def test_a_ticket_ends_with_its_token():
    tickets, _, ticket = issued(exp=int(time.time()) - 5)  # inside the leeway of the token, not of the ticket
    with pytest.raises(Unauthenticated, match="expired"):
        tickets.principal(ticket, None, "run-1")


def test_a_ticket_is_no_token_and_a_token_no_ticket():
    tickets, _, ticket = issued()
    assert "signature" in refused(HS, ticket)
    with pytest.raises(Unauthenticated):
        tickets.principal(jwt.encode(claims(aud="callboard-ticket", run="run-1", own="alice"), SECRET), None, "run-1")


def test_every_front_of_a_deployment_takes_the_others_tickets():
    public = settings(jwt_public_key=pem(EC_KEY))
    _, principal, _ = issued()
    ticket = Tickets(public).issue(principal, "alice", "r")
    assert Tickets(public).principal(ticket, None, "r")[1] == "alice"
    elsewhere = public.model_copy(update={"database_url": SecretStr("postgresql://u:other@h/d")})
    with pytest.raises(Unauthenticated):
        Tickets(elsewhere).principal(ticket, None, "r")
