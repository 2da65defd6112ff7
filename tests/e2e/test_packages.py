"""The lock file of the browser tests says what is installed, never from where."""

import json
from pathlib import Path

LOCK = Path(__file__).with_name("package-lock.json")


def test_the_lock_names_no_host_and_pins_every_package() -> None:
    packages = json.loads(LOCK.read_text())["packages"]
    assert "://" not in LOCK.read_text(), "delete the members `resolved` and `funding` from package-lock.json"
    assert all(entry.get("integrity") for name, entry in packages.items() if name), "a package is not pinned"
