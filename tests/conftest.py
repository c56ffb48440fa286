"""What all tests share: the installed package is tested, nothing outlives a test, and where genuine node
lines and sources are found.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import leftovers
import pytest

import fasttail

ROOT = Path(__file__).resolve().parent.parent

# Child processes (`python -m fasttail` from any folder) must not find the uncompiled package of the checkout.
os.environ["PYTHONSAFEPATH"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    # A shell without job control starts background jobs (`scripts/test &`) with SIGINT ignored, which the
    # processes that tests interrupt would inherit.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    where = Path(fasttail.__file__ or "")
    # An editable installation is compiled in the checkout.
    if where.is_relative_to(ROOT / "fasttail") and find_spec("fasttail.engine.pipeline") is None:
        raise pytest.UsageError(
            f"the tests would import the uncompiled package {where.parent}: run scripts/test, or pytest "
            "(not python -m pytest) from an environment where fasttail is installed"
        )
    leftovers.begin()
    config.stash[_ours] = leftovers.children()


_ours = pytest.StashKey[set[int]]()
"""For the session: the guard. For a test: all processes that exist when its fixtures do."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    item.stash[_ours] = leftovers.children()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """End what a test started when the test ends, and what a file's fixtures started when the file ends."""
    try:
        return (yield)
    finally:
        last = nextitem is None or nextitem.path != item.path
        leftovers.end(but=item.config.stash[_ours] if last else item.stash.get(_ours, leftovers.children()))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of genuine node lines (`node_order_statuses.*.jsonl` and others)."""
    folder = Path(os.environ.get("FASTTAIL_REAL_DATA") or ROOT.parent / "shared" / "data" / "real")
    if not any(folder.glob("node_order_statuses.*")):
        pytest.skip(f"no genuine node lines in {folder}: set FASTTAIL_REAL_DATA")
    return folder


@pytest.fixture(scope="session")
def checkout(sources: Path) -> Path:
    """Return the sources if bench/ is beside them; skip the test otherwise, as when a wheel is tested."""
    if sources != ROOT:
        pytest.skip(f"no sources of fasttail beside {ROOT / 'bench'}")
    return sources


@pytest.fixture(scope="session")
def sources() -> Path:
    """Return the folder that contains fasttail/ with all its sources: the checkout, or FASTTAIL_SOURCES."""
    folder = Path(os.environ.get("FASTTAIL_SOURCES") or ROOT)
    if not (folder / "fasttail" / "pipeline.pyx").is_file():
        pytest.skip(f"no sources of fasttail in {folder}: set FASTTAIL_SOURCES")
    return folder
