"""The command line: what it lists, how it refuses, and that it loads only what it runs."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Annotated

import pytest
import typer

from callboard_runtime import cli
from callboard_runtime.cli import processes
from callboard_runtime.cli.logs import JsonFormatter, TextFormatter, start_logging
from callboard_runtime.cli.settings_doc import env_example, shown, unknown_variables, without_credentials
from callboard_runtime.errors import CallboardError, ConfigError, InvalidInput, NotFound, SettingsError, Unavailable
from callboard_runtime.settings import Settings
from command_line import Run, runner

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `callboard` with these arguments and return its exit code."""
    return runner(monkeypatch)


# -- help and usage ---------------------------------------------------------------------------------------------------


def test_help_lists_the_commands_in_the_order_of_their_use(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    listed = text.partition("Commands:")[2].splitlines()
    names = [line.split()[0] for line in listed if line.startswith("  ") and line[2:3].isalpha()][:16]
    commands = ["migrate", "status", "load", "openapi", "asyncapi", "runs", "sessions", "approvals"]
    commands += ["agents", "config", "dlq", "webhooks"]
    assert names == ["up", "http", "actors", "worker", *commands]
    assert "callboard up" in text
    assert "callboard config env-example" in text


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys\nfrom callboard_runtime import cli\nsys.argv = ['callboard', '--help']\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "heavy = ['crewai', 'litellm', 'celery', 'aiohttp', 'faststream', 'sqlalchemy', 'alembic', 'pydantic']\n"
        "print('LOADED', [name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "callboard_runtime.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"callboard {metadata.version('callboard')}\n"


@pytest.mark.parametrize("args", [(), ("nope",), ("--nope",), ("migrate", "--nope"), ("agents",), ("agents", "show")])
def test_wrong_usage_is_exit_code_two(run: Run, capsys: pytest.CaptureFixture[str], args: tuple[str, ...]) -> None:
    assert run(*args) == 2
    assert "Traceback" not in capsys.readouterr().err


# -- errors -----------------------------------------------------------------------------------------------------------


def test_a_missing_setting_is_one_line_and_a_hint(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("migrate") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: CALLBOARD_DATABASE_URL is not set; set it, such as")
    assert lines[1].startswith("hint: `callboard config show`")


def test_a_missing_server_says_so(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLBOARD_DATABASE_URL", "postgresql://u:hunter2@127.0.0.1:1/db")
    assert run("migrate", "--check") == 1
    err = capsys.readouterr().err
    assert err.startswith("error: the database is away")
    assert "hint: is the server running" in err
    assert "hunter2" not in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["callboard", "--debug", "migrate"])
    with pytest.raises(SettingsError):
        cli.main()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError(), 2),
        (InvalidInput("--param x"), 2),
        (ConfigError(), 1),
        (NotFound(), 1),
        (Unavailable(), 1),
        (CallboardError(), 1),
    ],
)
def test_exit_codes(error: CallboardError, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.report(error) == code
    assert capsys.readouterr().err.startswith("error: ")


def test_an_error_of_several_lines_is_shown_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    cli.report(CallboardError("one\n  two"))
    assert capsys.readouterr().err == "error: one two\n"


# -- processes that live elsewhere ------------------------------------------------------------------------------------


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module `elsewhere_cli` whose `serve` is the command `http`."""
    module = ModuleType("elsewhere_cli")
    module.__spec__ = metadata.__spec__  # found by find_spec
    monkeypatch.setitem(sys.modules, "elsewhere_cli", module)
    entry = metadata.EntryPoint("http", "elsewhere_cli:serve", processes.GROUP)
    monkeypatch.setattr(processes.metadata, "entry_points", lambda group: [entry])
    handlers, level = logging.root.handlers[:], logging.root.level
    yield module
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def test_a_process_gets_its_own_options(elsewhere: ModuleType, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def serve(port: Annotated[int, typer.Option(help="Where to listen.")] = 1, loud: bool = False) -> None:
        """Serve things."""
        print("serving", port, loud)

    elsewhere.serve = serve  # type: ignore[attr-defined]
    assert run("http", "--port", "7", "--loud") == 0
    assert capsys.readouterr().out == "serving 7 True\n"
    assert run("http", "--help") == 0
    assert "Where to listen." in capsys.readouterr().out
    assert run("http", "--port", "x") == 2


def test_an_error_of_a_process_is_shown_the_same_way(
    elsewhere: ModuleType, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    def serve() -> None:
        raise Unavailable("no broker")

    elsewhere.serve = serve  # type: ignore[attr-defined]
    assert run("http") == 1
    assert capsys.readouterr().err.startswith("error: no broker\nhint: ")


def test_a_process_whose_packages_are_missing_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "needy_cli.py").write_text("import no_such_package_at_all\ndef serve(): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = metadata.EntryPoint("http", "needy_cli:serve", processes.GROUP)
    monkeypatch.setattr(processes.metadata, "entry_points", lambda group: [entry])
    assert run("http") == 2
    assert (
        "needs no_such_package_at_all, which is not installed: pip install 'callboard[http]'" in capsys.readouterr().err
    )


def test_a_process_that_is_not_there_is_not_listed(
    monkeypatch: pytest.MonkeyPatch, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = metadata.EntryPoint("http", "no_such_package_at_all.cli:serve", processes.GROUP)
    monkeypatch.setattr(processes.metadata, "entry_points", lambda group: [entry])
    run("--help")
    listed = capsys.readouterr().out.partition("Commands:")[2]
    assert "\n  http" not in listed
    assert "\n  migrate" in listed
    assert run("http") == 2


# -- settings as text -------------------------------------------------------------------------------------------------


def test_the_example_file_is_what_the_model_says(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert (ROOT / ".env.example").read_text(encoding="utf-8") == env_example(), (
        "run `callboard config env-example > .env.example`"
    )
    assert run("config", "env-example") == 0
    assert capsys.readouterr().out == env_example()


def test_the_example_file_states_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line[1:] for line in env_example().splitlines() if line.startswith("#CALLBOARD_") and "<" not in line]
    assert len(lines) > 50
    path = tmp_path / "all.env"
    path.write_text("\n".join(lines))
    monkeypatch.setenv("CALLBOARD_ENV_FILE", str(path))
    urls = ("database_url", "amqp_url", "redis_url")
    read = Settings()
    assert all(getattr(read, name) is not None for name in urls)
    assert read.model_copy(update=dict.fromkeys(urls)) == Settings.model_construct(
        **dict(Settings(_env_file=None))
    ).model_copy(update=dict.fromkeys(urls))


def test_config_show_has_no_secrets(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hunter2-hunter2-hunter2-hunter2-hunter2"
    monkeypatch.setenv("CALLBOARD_DATABASE_URL", f"postgresql://me:{secret}@db:5432/name?password={secret}")
    monkeypatch.setenv("CALLBOARD_AUTH__JWT_SECRET", secret)
    monkeypatch.setenv("CALLBOARD_LLM__PROVIDER_KEYS__DEEPSEEK", secret)
    monkeypatch.setenv("CALLBOARD_LLM__PROVIDER_KEYS__MISTRAL", secret)
    monkeypatch.setenv("CALLBOARD_LLM__API_BASE__OPENAI", f"https://{secret}@proxy.example/v1?key={secret}")
    for args in (("config", "show"), ("config", "show", "--json")):
        assert run(*args) == 0
        out = capsys.readouterr().out
        assert secret not in out
        assert "postgresql://me:**********@db:5432/name" in out
        assert "https://**********@proxy.example/v1" in out
        assert "CALLBOARD_LLM__PROVIDER_KEYS__MISTRAL" in out
    values = json.loads(out)
    assert values["CALLBOARD_HTTP__PORT"] == "8000"
    assert values["CALLBOARD_AUTH__JWT_SECRET"] == "**********"


def test_config_show_points_at_variables_that_are_none(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLBOARD_DATABSE_URL", "x")
    assert run("config", "show") == 0
    assert "ignored: CALLBOARD_DATABSE_URL (there is no such setting)" in capsys.readouterr().err
    assert (
        unknown_variables({"CALLBOARD_HTTP__PORT": "", "SOCIAL_LOG_LEVEL": "", "CALLBOARD_ENV_FILE": "", "X": ""}) == []
    )


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("redis://:pw@h:1/0", "redis://:**********@h:1/0"),
        ("redis://h:1/0", "redis://h:1/0"),
        ("https://token@h/p?q=1#f", "https://**********@h/p"),
        ("postgresql://u:p@[::1]:5/db", "postgresql://u:**********@[::1]:5/db"),
        ("postgresql://u:p@[::1/db", "**********"),
    ],
)
def test_urls_without_credentials(url: str, wanted: str) -> None:
    assert without_credentials(url) == wanted


def test_every_setting_is_shown() -> None:
    values = shown(Settings())
    assert values["CALLBOARD_HTTP__CORS_ORIGINS"] == ""
    assert values["CALLBOARD_RUNS__DEADLINE"] == "600"
    assert len(values) > 50


# -- log lines --------------------------------------------------------------------------------------------------------


def record(**extra: object) -> logging.LogRecord:
    made = logging.makeLogRecord(
        {"name": "callboard.x", "levelname": "INFO", "msg": "sent %d", "args": (3,), "created": 0.5, "msecs": 500}
    )
    vars(made).update(extra)
    return made


def test_json_lines_carry_the_extras() -> None:
    line = json.loads(JsonFormatter().format(record(action="relayed", run_id="r", odd={1: {2}})))
    assert (line["message"], line["level"], line["logger"]) == ("sent 3", "INFO", "callboard.x")
    assert (line["action"], line["run_id"]) == ("relayed", "r")
    assert line["time"] == "1970-01-01T00:00:00.500Z"


def test_json_lines_carry_the_exception() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        line = json.loads(JsonFormatter().format(record(exc_info=sys.exc_info())))
    assert line["exception"].endswith("ValueError: no")


def test_text_lines_carry_the_extras() -> None:
    assert TextFormatter().format(record(action="relayed")).endswith("INFO callboard.x: sent 3 (action=relayed)")
    assert TextFormatter().format(record()).endswith("INFO callboard.x: sent 3")


def test_logging_is_started_once_however_often(elsewhere: ModuleType) -> None:
    start_logging("INFO", "json")
    start_logging("WARNING", "text")
    assert len(logging.root.handlers) == 1
    assert isinstance(logging.root.handlers[0].formatter, TextFormatter)
    assert logging.root.level == logging.WARNING
