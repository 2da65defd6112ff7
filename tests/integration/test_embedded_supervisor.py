"""A supervised child is waited for, restarted, given up with its own words, and stopped in order."""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest

from callboard_runtime.embedded.errors import ChildFailed
from callboard_runtime.embedded.supervisor import ChildSpec, RestartPolicy, Supervisor
from waiting import until

QUICK = RestartPolicy(first=0.01, most=0.05, attempts=3)


def _python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def _sleeper(name: str = "sleeper", **fields: object) -> ChildSpec:
    return ChildSpec(name=name, command=_python("import time; time.sleep(600)"), **fields)  # type: ignore[arg-type]


async def test_start_returns_when_the_child_says_it_is_ready(tmp_path: Path) -> None:
    flag = tmp_path / "flag"

    async def ready(pid: int) -> bool:
        assert psutil.pid_exists(pid)
        return flag.exists()

    code = f"import pathlib, time; time.sleep(0.2); pathlib.Path({str(flag)!r}).touch(); time.sleep(600)"
    async with Supervisor() as supervisor:
        await supervisor.start(ChildSpec(name="late", command=_python(code), ready=ready))
        assert flag.exists()


async def test_a_killed_child_is_started_again() -> None:
    async with Supervisor(QUICK) as supervisor:
        (child,) = await supervisor.start(_sleeper())
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: child.restarts == 1 and child.pid, "restart", timeout=20)
        assert child.pid != first


async def test_a_child_that_cannot_start_is_given_up_with_its_own_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "log"

    async def never(_pid: int) -> bool:
        return False

    code = "import sys; sys.exit('port 5432 is taken')"
    spec = ChildSpec(name="database", command=_python(code), log=log, ready=never, advice="choose another port")
    async with Supervisor(QUICK) as supervisor:
        with pytest.raises(ChildFailed) as failure:
            await supervisor.start(spec)
    assert str(failure.value) == (
        f"database ended with exit code 1 while starting; its log {log} ends:\n"
        "    port 5432 is taken\nchoose another port"
    )
    assert [r.levelno for r in caplog.records if r.name.endswith("supervisor")] == [logging.ERROR] * 2


async def test_a_usage_error_is_not_repeated(caplog: pytest.LogCaptureFixture) -> None:
    async with Supervisor(QUICK) as supervisor:
        await supervisor.start(ChildSpec(name="typo", command=_python("import sys; sys.exit(2)")))
        with pytest.raises(ChildFailed, match="typo ended with exit code 2"):
            await supervisor.failed()
    assert not [record for record in caplog.records if "starting again" in record.getMessage()]


async def test_a_child_that_keeps_ending_makes_failed_raise() -> None:
    async with Supervisor(QUICK) as supervisor:
        await supervisor.start(_sleeper(), ChildSpec(name="loop", command=_python("raise SystemExit(1)")))
        async with asyncio.timeout(30):
            with pytest.raises(ChildFailed, match="loop ended with exit code 1"):
                await supervisor.failed()


async def test_a_silent_child_is_ended_and_reported() -> None:
    async def never(_pid: int) -> bool:
        return False

    spec = _sleeper(ready=never, ready_timeout=0.1)
    async with Supervisor(RestartPolicy(attempts=1)) as supervisor:
        with pytest.raises(ChildFailed, match=r"sleeper did not answer within 0\.1 s"):
            await supervisor.start(spec)
        assert [child.pid for child in supervisor.children] == [None]


async def test_children_stop_in_reverse_order_and_a_deaf_one_is_killed(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    trap = (
        "import pathlib, signal, sys, time\n"
        "def stop(*_):\n"
        f"    with open({str(journal)!r}, 'a') as f: f.write(sys.argv[1])\n"
        "    sys.exit()\n"
        "signal.signal(signal.SIGTERM, stop if sys.argv[1] != 'deaf' else signal.SIG_IGN)\n"
        f"pathlib.Path({str(tmp_path)!r}, 'ready-' + sys.argv[1]).touch()\n"
        "time.sleep(600)"
    )

    def spec(name: str) -> ChildSpec:
        async def ready(_pid: int) -> bool:
            return (tmp_path / f"ready-{name}").exists()

        patience = 0.2 if name == "deaf" else 20
        return ChildSpec(name=name, command=[*_python(trap), name], ready=ready, stop_timeout=patience)

    async with Supervisor() as supervisor:
        for name in ("1", "deaf", "2"):
            await supervisor.start(spec(name))
        pids = [child.pid for child in supervisor.children]
    assert journal.read_text() == "21"
    assert not any(pid and psutil.pid_exists(pid) for pid in pids)


async def test_children_do_not_inherit_more_than_they_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBOARD_LLM__PROVIDER_KEYS__OPENAI", "sk-secret")
    async with Supervisor() as supervisor:
        (child,) = await supervisor.start(_sleeper(environment={"PATH": os.defpath}))
        assert child.pid is not None
        assert "CALLBOARD_LLM__PROVIDER_KEYS__OPENAI" not in psutil.Process(child.pid).environ()
