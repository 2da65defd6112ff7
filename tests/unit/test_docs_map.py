"""The README's map: every hop names a symbol, and the file in which it is defined."""

import importlib
import inspect
from functools import reduce
from pathlib import Path

import pytest

from unit import docs_pages as docs

SOURCE_ROOTS = ("runtime", "actors", "http")
MAP = docs.table(docs.README, "hop")
PLACES = [span for cell in MAP.column("where") for span in docs.spans(cell)]


def test_every_hop_has_one_place() -> None:
    assert all(len(docs.spans(cell)) == 1 for cell in MAP.column("where"))
    assert len(set(PLACES)) == len(PLACES) > 25


@pytest.mark.parametrize("place", PLACES)
def test_a_hop_is_where_the_map_says(place: str) -> None:
    path, _, symbol = place.partition(":")
    root, *parts = Path(path).with_suffix("").parts
    assert root in SOURCE_ROOTS
    module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    assert Path(inspect.getfile(module)).resolve() == docs.ROOT / path
    found = reduce(getattr, symbol.split("."), module)
    assert getattr(found, "run", found).__module__ == module.__name__  # a Celery task is a proxy; its `run` is not


def test_every_promise_names_its_tests() -> None:
    promises = docs.table(docs.README, "promised")
    assert len(promises.rows) == 10
    for cell in promises.column("tested by"):
        assert docs.spans(cell)
        for path in docs.spans(cell):
            found = docs.ROOT / path
            assert list(found.glob("test_*.py")) if found.is_dir() else found.is_file(), path
