"""Servers as units of a real systemd: the contract of launchers, and a reboot."""

import importlib.metadata
import io
import tarfile
from pathlib import Path

import pytest

from tests.lab.container import Container
from tests.lab.installing import LIBRARY
from tests.lab.launching import install_launcher
from tests.lab.serving import MODELS, Daemon, check_agreement, installed_in
from tests.lab.trees import NEWEST, OLDEST, ROOT, VENDOR
from tests.support.deadlines import SET_UP_S

# Between these two systemd changed what it says of units; the others are like one of them.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize(
        "release", [OLDEST, NEWEST], ids=lambda one: one.name, indirect=True, scope="session"
    ),
]

THIRD = tuple(MODELS)[-1]
INSIDE = "/srv/contract"
INSIDE_SETTINGS = """\
model_paths: [/srv/models]
port_range: [20000, 20999]
restart: {limit: 2, first_delay: 0.1, max_delay: 0.1}
"""
PYTEST_INI = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
# Pure Python, all of it: what runs the tests here runs them on every release.
TOOLS = (
    *("pytest", "pytest-asyncio", "pluggy", "iniconfig", "packaging", "pygments"),
    "typing_extensions",
)


def tools() -> bytes:
    """A tar archive of what runs tests, as it is installed here."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in TOOLS:
            for file in importlib.metadata.files(name) or []:
                assert file.suffix != ".so", f"{file} is for one Python only"
                if ".." not in file.parts and file.suffix != ".pyc":
                    tar.add(str(file.locate()), f"lib/{file}")
    return buffer.getvalue()


def test_the_contract_of_launchers(fresh_container: Container, chat_model: Path) -> None:
    """By pytest in there: it has to see the processes, and to kill them."""
    install_launcher(fresh_container, chat_model)
    fresh_container.write("/etc/magi/magid.yaml", INSIDE_SETTINGS)
    fresh_container.write("/srv/models/Demo-Tiny-F16.gguf", chat_model.read_bytes())
    sources = {
        "__init__.py": b"",
        "support/__init__.py": b"",
        "support/deadlines.py": (ROOT / "tests/support/deadlines.py").read_bytes(),
        "support/launcher_contract.py": (ROOT / "tests/support/launcher_contract.py").read_bytes(),
        "test_contract.py": (ROOT / "tests/lab/inside/contract.py").read_bytes(),
    }
    for name, data in sources.items():
        fresh_container.write(f"{INSIDE}/tests/{name}", data)
    fresh_container.write(f"{INSIDE}/pytest.ini", PYTEST_INI)
    fresh_container.run(["tar", "-x", "-C", INSIDE], input=tools())
    path = ":".join([INSIDE, LIBRARY, VENDOR, f"{INSIDE}/lib"])
    done = fresh_container.run(
        [
            *("python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--rootdir={INSIDE}"),
            *("-c", f"{INSIDE}/pytest.ini", "--basetemp=/srv/models/tmp"),
            f"{INSIDE}/tests/test_contract.py",
        ],
        check=False,
        timeout=SET_UP_S,
        environment={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stdout + fresh_container.diagnosis()
    assert " passed" in done.stdout


def test_after_a_reboot_all_is_as_wanted(fresh_container: Container, chat_model: Path) -> None:
    before = installed_in(fresh_container, chat_model)
    with before.client:
        before.wait_ready()
        before.put(THIRD, "tier", {"tier": "fast"})
    fresh_container.reboot()
    after = Daemon(fresh_container)
    with after.client:
        after.wait_ready()
        check_agreement(after)
        assert after.client.get(f"/api/models/{THIRD}").json()["tierOverride"] == "fast"
        assert fresh_container.systemctl("is-system-running") == "running"
