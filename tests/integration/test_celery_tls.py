"""Celery's connection to a broker behind TLS: whose certificate it takes."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import SecretStr

from callboard_runtime.entry.celery_app import bind, create_celery
from callboard_runtime.settings import Settings

pytestmark = pytest.mark.timeout(60)


def write_certificate(path: Path, host: str) -> Path:
    """A certificate for `host` that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + secret)
    return path


@asynccontextmanager
async def behind_tls(url: str, certificate: Path) -> AsyncIterator[str]:
    """The URL at which the broker at `url` is reached through TLS, on localhost."""
    target = urlsplit(url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    async def pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while some := await source.read(4096):
                sink.write(some)
        finally:
            sink.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection(target.hostname, target.port)
        await asyncio.gather(pipe(reader, requests), pipe(answers, writer), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        login, port = target.netloc.rpartition("@")[0], server.sockets[0].getsockname()[1]
        yield f"amqps://{login}@localhost:{port}{target.path}?cafile={certificate}"


async def connect(url: str) -> None:
    """As a worker does."""
    celery = create_celery()
    bind(celery, Settings(amqp_url=SecretStr(url)))
    with celery.connection_for_read() as connection:
        await asyncio.to_thread(connection.connect)


async def test_a_broker_is_reached_whose_certificate_is_for_its_host(embedded_amqp_url: str, tmp_path: Path) -> None:
    certificate = write_certificate(tmp_path / "broker.pem", "localhost")
    async with behind_tls(embedded_amqp_url, certificate) as url:
        await connect(url)


async def test_a_broker_with_another_hosts_certificate_is_not(embedded_amqp_url: str, tmp_path: Path) -> None:
    certificate = write_certificate(tmp_path / "other.pem", "elsewhere.test")
    async with behind_tls(embedded_amqp_url, certificate) as url:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await connect(url)
        await connect(f"{url}&no_verify_ssl=1")
