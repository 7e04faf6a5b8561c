"""On a fresh Debian, with what CONTRIBUTING.md asks for: the set-up brings all that is called."""

import importlib.metadata
import sys

import pytest

from tests.lab import called, fresh, requirements
from tests.lab.fresh import RELEASES_OF_TODAY, Programs
from tests.lab.layers import LabError
from tests.lab.trees import Release

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def machines(request: pytest.FixtureRequest) -> dict[Release, Programs]:
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    assert capture is not None
    try:
        with capture.global_and_fixture_disabled():
            return fresh.build_all(lambda text: print(f"\nlab: {text}", file=sys.stderr))  # noqa: T201 - to the person who waits
    except LabError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(params=RELEASES_OF_TODAY, ids=lambda release: release.name)
def machine(machines: dict[Release, Programs], request: pytest.FixtureRequest) -> Programs:
    return machines[request.param]


def test_every_program_that_is_called_is_there(machine: Programs) -> None:
    needed = called.programs()
    assert {"dbus-daemon", "lintian", "npm", "promtool", "systemd-nspawn", "zsh"} <= needed.keys()
    missing = {name: place for name, place in needed.items() if name not in machine.all}
    assert missing == {}, "packaging/test-tools does not install them (or they are no programs)"


def test_every_program_that_the_quick_tests_call_is_there(machine: Programs) -> None:
    """With what `make check` installs, before `make deb` or `make test` bring more."""
    needed = called.quick_programs()
    assert {"dbus-daemon", "git", "systemd-analyze", "systemd-tmpfiles"} <= needed.keys()
    missing = {name: place for name, place in needed.items() if name not in machine.quick}
    assert missing == {}, "mark the tests as slow, or let `packaging/test-tools check` install them"


@pytest.mark.parametrize("release", RELEASES_OF_TODAY, ids=lambda release: release.name)
def test_every_package_that_is_imported_is_locked(release: Release) -> None:
    needed = called.packages()
    assert {"sanic", "pytest", "packaging"} <= needed.keys()
    have = {entry.name for entry in fresh.locked("requirements.lock", release.python)}
    whose = importlib.metadata.packages_distributions()
    missing = {
        name: place
        for name, place in needed.items()
        if have.isdisjoint(map(requirements.normal, whose.get(name, [])))
    }
    assert missing == {}
