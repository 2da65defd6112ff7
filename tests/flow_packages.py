"""ag-ui-crewai for the tests, in a folder of its own: its FastAPI is older than what the other packages here need.

And what is needed to run the flows of the tests with it.
"""

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOCK = ROOT / "requirements.flows.lock"
CONFIG = Path(__file__).parent / "integration" / "flow_config"
SET_PLAN = {
    "name": "set_plan",
    "description": "Show the plan",
    "parameters": {"type": "object", "properties": {"label": {"type": "string"}}},
}
# Only what the suite's own environment lacks; everything else is there in the same or a later version.
_NAMES = ("ag-ui-crewai", "ag-ui-a2ui-toolkit", "fastapi")


def flow_packages() -> Path:
    """The folder, filled on first use; raises CalledProcessError when the packages cannot be had."""
    entries = [entry for entry in re.split(r"\n(?=\S)", LOCK.read_text().strip()) if entry.split("==")[0] in _NAMES]
    assert len(entries) == len(_NAMES), entries
    wanted = "\n".join(entries) + "\n"
    folder = ROOT / ".tools" / f"flows-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"
    if not folder.exists():
        _install(wanted, folder)
    return folder


def flow_settings(model_url: str) -> dict[str, str]:
    """What a worker needs to run the flows of the tests."""
    return {
        "CALLBOARD_CONFIG__DIR": str(CONFIG),
        "CALLBOARD_TEST_PACKAGES": str(flow_packages()),
        "CALLBOARD_LLM__PROVIDER_KEYS__OPENAI": "sk-not-a-real-one",
        "CALLBOARD_LLM__API_BASE__OPENAI": model_url,
    }


def _install(wanted: str, folder: Path) -> None:
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    (unfinished / "wanted.txt").write_text(wanted)
    options = ["--quiet", "--no-deps", "--require-hashes", "--target", str(unfinished)]
    subprocess.run(
        [sys.executable, "-m", "uv", "pip", "install", *options, "-r", str(unfinished / "wanted.txt")], check=True
    )
    unfinished.rename(folder)
