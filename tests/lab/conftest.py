"""Containers for tests. The first session on a machine builds their trees, for some minutes."""

import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.lab import packages, trees
from tests.lab.container import Container, booted
from tests.lab.launching import Asker, install_launcher
from tests.lab.layers import LabError
from tests.lab.trees import RELEASES, Release, Tree


@pytest.fixture(scope="session")
def all_trees(request: pytest.FixtureRequest) -> dict[Release, Tree]:
    """One per release. Where one cannot be had, every test that wants a container fails."""
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    shown = capture.global_and_fixture_disabled() if capture else nullcontext()
    try:
        with shown:
            return trees.build_all(RELEASES, say)
    except LabError as error:
        pytest.fail(str(error), pytrace=False)


def say(text: str) -> None:
    """To the person who waits."""
    sys.stderr.write(f"\nlab: {text}")
    sys.stderr.flush()


@pytest.fixture(scope="session", params=RELEASES, ids=lambda release: release.name)
def release(request: pytest.FixtureRequest) -> Release:
    chosen: Release = request.param
    return chosen


@pytest.fixture(scope="session")
def tree(all_trees: dict[Release, Tree], release: Release) -> Tree:
    return all_trees[release]


@pytest.fixture(scope="module")
def container(tree: Tree) -> Iterator[Container]:
    """A booted one, shared by the tests of a file: leave it as it was."""
    with booted(tree) as one:
        yield one


@pytest.fixture(scope="module")
def asker(container: Container, chat_model: Path) -> Asker:
    """A shared one, to which a launcher listens that has one model."""
    install_launcher(container, chat_model)
    return Asker.of(container)


@pytest.fixture
def fresh_container(tree: Tree) -> Iterator[Container]:
    """A booted one of the test's own."""
    with booted(tree) as one:
        yield one


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package of this checkout, built once for all processes of pytest-xdist."""
    own = tmp_path_factory.getbasetemp()
    return packages.built_once(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)
