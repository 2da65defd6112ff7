"""The commands for operators, without services: times, ages, positions, completion, and finding `callboard up`."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_runtime.cli import completion, told
from callboard_runtime.cli.approvals_service import arguments
from callboard_runtime.cli.running import use_running_services
from callboard_runtime.domain.ids import utcnow
from callboard_runtime.domain.state_snapshot import RunStatus, SessionStatus
from callboard_runtime.embedded.paths import locked
from callboard_runtime.embedded.running import FILE, noted, running_services
from callboard_runtime.errors import InvalidInput
from callboard_runtime.inspection.ages import moment
from callboard_runtime.inspection.paging import NEWEST, OLDEST, Position, check_count
from callboard_runtime.inspection.views import DeliveryStatus
from command_line import Run, runner

URLS = {"database_url": "postgresql://u:secret@h/d", "amqp_url": "amqp://h/", "redis_url": "redis://h/0"}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run `callboard` with these arguments, where no `callboard up` runs, and return its exit code."""
    monkeypatch.setenv("CALLBOARD_EMBEDDED__DATA_DIR", str(tmp_path))
    return runner(monkeypatch)


# -- how things are told ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0421, "42 ms"), (1.25, "1.2 s"), (42, "42 s"), (61, "1 min"), (7200, "2 h"), (86_400 * 3, "3 d")],
)
def test_a_length_of_time_has_one_unit(seconds: float, text: str) -> None:
    assert told.span(seconds) == text


def test_times_that_are_unknown_or_to_come() -> None:
    assert told.ago(None) == told.took(None, None) == ""
    assert told.ago(utcnow() + timedelta(days=7, minutes=1)) == "in 7 d"
    start = utcnow()
    assert told.took(start, start - timedelta(seconds=1)) == "0 ms"


@pytest.mark.parametrize(
    ("cost", "unpriced", "text"),
    [
        (None, 0, "unknown"),
        (Decimal(0), 0, "$0"),
        (Decimal("0.00120"), 0, "$0.0012"),
        (Decimal(2), 3, "$2 + 3 unpriced"),
    ],
)
def test_an_unknown_price_is_not_zero(cost: Decimal | None, unpriced: int, text: str) -> None:
    assert told.money(cost, unpriced) == text


# -- what operators write ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("age", "back"), [("30s", 30), ("10m", 600), ("2h", 7200), ("7d", 604_800)])
def test_an_age_is_a_moment_in_the_past(age: str, back: int) -> None:
    found = moment("newer_than", age)
    assert found is not None
    assert abs((utcnow() - found).total_seconds() - back) < 60
    assert moment("newer_than", None) is None


@pytest.mark.parametrize("age", ["", "10", "m", "1w", "-5m", "1.5h", "٣m", "10m "])
def test_what_is_no_age_is_refused_by_name(age: str) -> None:
    with pytest.raises(InvalidInput, match="older_than: must be an age"):
        moment("older_than", age)


def test_no_age_is_before_the_calendar() -> None:
    found = moment("older_than", "999999d")
    assert found is not None
    assert found.year > 1900


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), st.uuids())
def test_a_position_comes_back_as_it_was(at: datetime, row_id: UUID) -> None:
    position = Position(at.replace(tzinfo=UTC), row_id)
    assert Position.parse(position.encode()) == position
    assert OLDEST < position < NEWEST


@given(st.text())
def test_a_position_that_was_not_given_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="after: not a position"):
        Position.parse(text)


@pytest.mark.parametrize("count", [0, -1, 201])
def test_pages_are_bounded(count: int) -> None:
    with pytest.raises(InvalidInput, match="limit: "):
        check_count(count)


@pytest.mark.parametrize("given_text", ["", "{", "[1]", '"x"', "null"])
def test_arguments_are_a_json_object(given_text: str) -> None:
    with pytest.raises(InvalidInput, match="--args: "):
        arguments(given_text)
    assert arguments('{"amount": 5}') == {"amount": 5}
    assert arguments(None) is None


# -- completion -------------------------------------------------------------------------------------------------------


def test_the_statuses_that_are_offered_are_those_that_there_are() -> None:
    assert tuple(RunStatus) == completion.RUN_STATUSES
    assert tuple(SessionStatus) == completion.SESSION_STATUSES
    assert tuple(DeliveryStatus) == completion.DELIVERY_STATUSES
    assert completion.delivery_statuses("g") == ["given_up"]
    assert completion.run_statuses("ca") == ["cancelling", "cancelled"]


def test_nothing_is_offered_and_nothing_said_without_a_database(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALLBOARD_EMBEDDED__DATA_DIR", str(tmp_path))
    assert completion.run_ids("r") == completion.session_ids("") == completion.interrupt_ids("") == []
    assert capfd.readouterr() == ("", "")


def test_the_shell_is_given_commands_and_statuses() -> None:
    def complete(line: str) -> list[str]:
        words = {
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
            "_CALLBOARD_COMPLETE": "complete_bash",
        }
        program = [sys.executable, "-c", "from callboard_runtime.cli import main; main()"]
        done = subprocess.run(program, env={**os.environ, **words}, capture_output=True, text=True, check=False)
        return done.stdout.split()

    assert {"runs", "sessions", "approvals", "status"} <= set(complete("callboard "))
    assert complete("callboard runs list --status fa") == ["failed"]


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [("runs", "list"), ("sessions", "show", "t1"), ("approvals", "list"), ("status",)])
def test_without_services_it_says_what_to_set(
    run: Run, args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*args) == 2
    assert "set it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "args", [("runs", "list", "--limit", "0"), ("runs",), ("approvals", "approve"), ("sessions", "show")]
)
def test_wrong_usage_is_exit_code_two(run: Run, args: tuple[str, ...]) -> None:
    assert run(*args) == 2


# -- the services of `callboard up` -----------------------------------------------------------------------------------


def test_the_services_of_a_running_up_are_found_and_of_a_dead_one_are_not(tmp_path: Path) -> None:
    assert running_services(tmp_path) is None
    with locked(tmp_path), noted(tmp_path, URLS):
        found = running_services(tmp_path)
        assert found is not None
        assert (found.pid, found.urls) == (os.getpid(), URLS)
        assert "secret" not in repr(found)
        assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert not (tmp_path / FILE).exists()
    (tmp_path / FILE).write_text('{"database_url": "left by one that was killed"}')
    assert running_services(tmp_path) is None


def test_configured_services_come_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "CALLBOARD_EMBEDDED__DATA_DIR": str(tmp_path)})
    with locked(tmp_path), noted(tmp_path, URLS):
        os.environ["CALLBOARD_REDIS_URL"] = "redis://mine/0"
        use_running_services()
        assert "CALLBOARD_DATABASE_URL" not in os.environ
        del os.environ["CALLBOARD_REDIS_URL"]
        use_running_services()
        assert os.environ["CALLBOARD_DATABASE_URL"] == URLS["database_url"]
    told_to = capsys.readouterr().err
    assert f"process {os.getpid()}" in told_to
    assert "secret" not in told_to
