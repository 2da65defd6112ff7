"""Secrets that the tests use, and a search for them in whatever the system wrote: logs, rows, messages.

Every process of a stack is started with these as its keys and passwords; none of them may turn up anywhere. The search
at the end of a session is a test like any other: it fails the session, and `test_security_secrets.py` shows that it
finds what is planted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from front_client import JWT_SECRET

PROVIDER_KEY = "sk-canary-7d1c9f52e0b64a3f"
HARNESS_SECRET = "an http test's secret of more than thirty-two bytes"
SECRETS: Mapping[str, str] = {
    "the provider's key": PROVIDER_KEY,
    "the secret of the stacks' tokens": JWT_SECRET,
    "the secret of the fronts' tokens": HARNESS_SECRET,
    "the key of the fault tests": "sk-not-a-real-one",
}
# Any token at all: head and claims of a JWT, both JSON objects.
_TOKEN = re.compile(r"eyJ[\w-]{8,}\.eyJ[\w-]{8,}")
LOGS = ("*.log", "*.jsonl")


@dataclass(frozen=True)
class Leak:
    """A secret where it should not be; says which and where, never more of the line."""

    what: str
    where: str


def leaks(text: str, where: str) -> list[Leak]:
    """The secrets, and tokens of any kind, in a text."""
    found = [Leak(what, where) for what, secret in SECRETS.items() if secret in text]
    return found + ([Leak("a token", where)] if _TOKEN.search(text) else [])


def leaks_of_files(folder: Path, patterns: Iterable[str] = LOGS) -> list[Leak]:
    """What the logs and ledgers below a folder give away."""
    files = sorted({file for pattern in patterns for file in folder.rglob(pattern) if file.is_file()})
    return [leak for file in files for leak in leaks(file.read_text(errors="replace"), file.name)]


async def leaks_of_database(url: str) -> list[Leak]:
    """What the rows of all tables give away."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        names = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        found: list[Leak] = []
        for name in (row["tablename"] for row in names):
            rows = await connection.fetch(f'SELECT t::text AS line FROM "{name}" t')
            found += [leak for row in rows for leak in leaks(row["line"], f"table {name}")]
        return sorted(set(found), key=repr)
    finally:
        await connection.close()
