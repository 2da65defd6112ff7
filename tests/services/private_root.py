"""RabbitMQ 4 on a Debian that ships 3.10: the next release's packages, unpacked into a root folder of their own.

Nothing is installed: apt resolves and fetches into private lists, dpkg unpacks, and a mount namespace with chroot
runs it.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

_SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
_HERE, _NEXT = "bookworm", "trixie"
# What the scripts of RabbitMQ and Erlang call; `base-files` links /bin and /lib64 to where they are.
_PACKAGES = ("rabbitmq-server", "base-files", "bash", "dash", "coreutils", "sed", "grep")
_ENTER = (
    'mount --rbind /proc "$0/proc" && mount --rbind /dev "$0/dev" && mkdir -p "$0$TEMPORARY" &&'
    ' mount --bind "$TEMPORARY" "$0$TEMPORARY" && exec chroot "$0" "$@"'
)


def unpack(root: Path, run: Callable[..., bool]) -> bool:
    """Fetch and unpack into `root`, once; False when apt cannot. `run(argv)` says whether a command succeeded."""
    if (root / "usr/lib/rabbitmq/bin/rabbitmq-server").exists():
        return True
    if shutil.which("apt-get") is None or not _SOURCES.exists():
        return False
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as folder:
        draft = Path(folder) / "root"
        if not _fetch(Path(folder), run):
            return False
        for package in sorted(Path(folder, "cache", "archives").glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", package, draft], check=True)
        for mount_point in ("proc", "dev", "tmp"):
            (draft / mount_point).mkdir(exist_ok=True)
        (draft / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
        draft.chmod(0o755)
        draft.rename(root)
    return True


def entering(root: Path) -> tuple[str, ...]:
    """What to put before a command so that it runs in `root`, with the machine's processes, network and temp folder."""
    account = () if os.geteuid() == 0 else ("--map-root-user",)
    script = f"TEMPORARY={tempfile.gettempdir()}; {_ENTER}"
    return ("unshare", "--mount", *account, "sh", "-c", script, str(root))


def _fetch(folder: Path, run: Callable[..., bool]) -> bool:
    options = _private_apt(folder)
    fetch = ["install", "-y", "-q", "--no-install-recommends", "--download-only", *_PACKAGES]
    return run(["apt-get", *options, "update", "-q"], loud=True) and run(["apt-get", *options, *fetch], loud=True)


def _private_apt(folder: Path) -> list[str]:
    for each in ("lists/partial", "cache/archives/partial", "sources"):
        (folder / each).mkdir(parents=True)
    # This machine's own mirrors, asked for the next release.
    (folder / "sources" / _SOURCES.name).write_text(_SOURCES.read_text().replace(_HERE, _NEXT))
    (folder / "status").touch()
    places = {
        "Dir::Etc::SourceList": os.devnull,
        "Dir::Etc::SourceParts": folder / "sources",
        "Dir::Etc::PreferencesParts": os.devnull,
        "Dir::State::Lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder / "cache",
    }
    return [f"-o{name}={value}" for name, value in places.items()]
