# Sourced by the scripts beside it: go to the repository's root and find a Python to begin with.
cd "$(dirname "$0")/.."
export PYTHONUNBUFFERED=1

bootstrap() {
    for python in "${PYTHON:-python3}" python3.11 python3.12 python3.13; do
        if command -v "$python" >/dev/null 2>&1; then
            "$python" scripts/bootstrap.py
            return
        fi
    done
    echo "bootstrap: Python 3.11, 3.12 or 3.13 is needed; install it (Debian: apt-get install python3)" >&2
    return 1
}
