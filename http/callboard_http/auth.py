"""Who is asking.

In:  a request's Authorization header, and under development auth its Host and Origin.
Out: a Principal, or Unauthenticated.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self
from urllib.parse import urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from pydantic import TypeAdapter, ValidationError

from callboard_runtime.domain.ids import UserId
from callboard_runtime.errors import SettingsError, Unauthenticated
from callboard_runtime.settings import AuthSettings, Settings

DEV_USER = "dev"
LEEWAY = 10  # seconds between clocks
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
MIN_RSA_BITS = 2048

Algorithm = Literal["HS256", "RS256", "ES256"]
_USER_IDS: TypeAdapter[str] = TypeAdapter(UserId)


@dataclass(frozen=True, slots=True)
class Principal:
    """A user, what they may be beyond that, and until when this is vouched for."""

    user_id: str
    roles: frozenset[str]
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Key:
    """The key that tokens are checked with. Its kind fixes the algorithm: the token's header has no say in it."""

    algorithm: Algorithm
    material: Any

    def __repr__(self) -> str:
        return f"Key({self.algorithm})"

    @classmethod
    def configured(cls, auth: AuthSettings) -> Self | None:
        """The configured key, or None; raises SettingsError for one that cannot be used."""
        if auth.jwt_secret and auth.jwt_public_key:
            raise SettingsError("CALLBOARD_AUTH__JWT_SECRET and CALLBOARD_AUTH__JWT_PUBLIC_KEY are both set; keep one")
        if auth.jwt_secret:
            return cls("HS256", auth.jwt_secret.get_secret_value())
        return cls._public(auth.jwt_public_key) if auth.jwt_public_key else None

    @classmethod
    def _public(cls, pem: str) -> Self:
        try:
            key = load_pem_public_key(pem.replace("\\n", "\n").encode())
        except ValueError:
            raise SettingsError("CALLBOARD_AUTH__JWT_PUBLIC_KEY is not a PEM public key") from None
        if isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
            return cls("RS256", key)
        if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
            return cls("ES256", key)
        raise SettingsError("CALLBOARD_AUTH__JWT_PUBLIC_KEY must be RSA (2048 bits or more) or EC on curve P-256")


class Authenticator:
    """Checks bearer tokens; under development auth a loopback request without one is user `dev`."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsError when nobody could be told from anybody."""
        self._auth, self._key = settings.auth, Key.configured(settings.auth)
        self._origins = frozenset(settings.http.cors_origins)
        self._dev = settings.dev_auth
        if self._dev and not is_loopback(settings.http.host):
            raise SettingsError(
                f"CALLBOARD_DEV_AUTH lets everybody in and works on loopback only, but CALLBOARD_HTTP__HOST is "
                f"{settings.http.host}; listen on 127.0.0.1, or set CALLBOARD_AUTH__JWT_SECRET and leave it off"
            )
        if self._key is None and not self._dev:
            raise SettingsError(
                "no way to tell users apart: set CALLBOARD_AUTH__JWT_SECRET (HS256) or CALLBOARD_AUTH__JWT_PUBLIC_KEY "
                "(RS256, ES256), or run `callboard up`, which serves one developer on loopback"
            )

    def authenticate(self, headers: Mapping[str, str]) -> Principal:
        """The principal of a request; raises Unauthenticated, which never repeats the token."""
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if self._key is not None and scheme.lower() == "bearer":
            return self._verified(self._key, token.strip())
        if self._dev:
            return self._developer(headers)
        raise Unauthenticated("send the header `Authorization: Bearer <JWT>`")

    def _verified(self, key: Key, token: str) -> Principal:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.material,
                algorithms=[key.algorithm],
                issuer=self._auth.jwt_issuer,
                audience=self._auth.jwt_audience,
                leeway=LEEWAY,
                options={"require": ["exp", "sub"], "verify_aud": self._auth.jwt_audience is not None},
            )
            return _principal(claims)
        except (jwt.InvalidTokenError, ValidationError, OverflowError, OSError, ValueError) as error:
            raise Unauthenticated(f"the token is not accepted: {_reason(error, key)}") from None

    def _developer(self, headers: Mapping[str, str]) -> Principal:
        """User `dev`, for a request that this machine's own browser or tools made for this server.

        They operate this one, too: whoever sits here can read its database anyway.
        """
        if not is_loopback(_host_name(f"//{headers.get('Host', '')}")):
            raise Unauthenticated("development auth answers to loopback names only; use http://localhost")
        origin = headers.get("Origin")
        if origin and origin not in self._origins and not is_loopback(_host_name(origin)):
            raise Unauthenticated("development auth takes no requests from pages of other sites")
        return Principal(DEV_USER, frozenset({self._auth.operator_role}), datetime.now(UTC) + timedelta(hours=1))


def is_loopback(name: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    if name.lower() in LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _host_name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _principal(claims: Mapping[str, Any]) -> Principal:
    roles = claims.get("roles", ())
    named = [roles] if isinstance(roles, str) else roles if isinstance(roles, list) else ()  # pyright: ignore[reportUnknownVariableType]
    return Principal(
        user_id=_USER_IDS.validate_python(claims["sub"], strict=True),
        roles=frozenset(str(role) for role in named),  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        expires_at=datetime.fromtimestamp(int(claims["exp"]), UTC),
    )


def _reason(error: Exception, key: Key) -> str:
    match error:
        case jwt.ExpiredSignatureError():
            return "it has expired"
        case jwt.InvalidAlgorithmError():
            return f"it must be signed with {key.algorithm}"
        case jwt.InvalidSignatureError():
            return "its signature is wrong"
        case jwt.MissingRequiredClaimError():
            return f"the claim `{error.claim}` is missing"
        case jwt.InvalidIssuerError():
            return "the claim `iss` is not the expected one"
        case jwt.InvalidAudienceError():
            return "the claim `aud` is not the expected one"
        case jwt.ImmatureSignatureError():
            return "it is not valid yet"
        case ValidationError():
            return "the claim `sub` must be a name of 1 to 200 printable characters"
        case _:
            return "it cannot be read"
