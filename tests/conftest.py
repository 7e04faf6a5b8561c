"""The real parts every test may use: a llama-server, tiny models, free ports."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest

from tests.support import ggufs
from tests.support.gpus import Gpus, MakeGpus, fake_gpus
from tests.support.rest import Parts

_ROOT = Path(__file__).resolve().parent.parent
_PROVISION = _ROOT / "packaging" / "provision-llama-server"
_PROVISION_SECONDS = 600  # a first download on a slow line; an installed one answers at once
_PORTS = range(10_000, 32_000)
_LONG = ("tests/lab/", "tests/servers/test_predicted_memory.py", "tests/servers/test_real_sizes.py")
_given_ports: set[int] = set()

# No test fails because the machine has other work.
hypothesis.settings.register_profile(
    "magid", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("magid")

# A shell that runs the tests in the background has SIGINT ignored, and programs that tests start
# would inherit that: they could not be interrupted as a person does it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first: the processes share all files, and are to end together."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """pytest-xdist sends reports as UTF-8, and some tests write what cannot be encoded."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


@pytest.fixture(scope="session")
def llama_server() -> Path:
    """A real llama-server program. Where none can be had, every test that wants it fails."""
    return _provisioned()


@pytest.fixture(scope="session")
def llama_server_with_rpc() -> Path:
    """A real one with ggml's RPC back end, for `tests.support.gpus`."""
    return _provisioned("--rpc")


@pytest.fixture
def make_gpus(llama_server_with_rpc: Path, tmp_path: Path) -> Iterator[MakeGpus]:
    """A callable: one GPU for each (total, used by others) in MiB; they end with the test."""
    with ExitStack() as held:

        def make(*sizes: tuple[int, int], hollow: bool = False) -> Gpus:
            made = fake_gpus(llama_server_with_rpc, tmp_path, sizes, hollow=hollow)
            return held.enter_context(made)

        yield make


def _provisioned(*options: str) -> Path:
    done = subprocess.run(
        [str(_PROVISION), *options],
        capture_output=True,
        text=True,
        timeout=_PROVISION_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(done.stderr.strip(), pytrace=False)
    return Path(done.stdout.strip())


@pytest.fixture(scope="session")
def parts(llama_server: Path) -> Parts:
    """What a daemon of a test's own is made of."""
    return Parts(llama_server, _free_port, _free_range)


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chat model of some 100 KB that a real llama-server loads; shared, so leave it as it is."""
    path = tmp_path_factory.mktemp("chat-model") / "Demo-Tiny-F16.gguf"
    return ggufs.write_chat_model(path, quantization="F16")


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A callable: each call gives a loopback port that is free now and was not given before."""
    return _free_port


def _free_port() -> int:
    return _free_range(1)


@pytest.fixture
def free_ports() -> Callable[[int], int]:
    """A callable: the lowest of so many consecutive free ports, none given before."""
    return _free_range


def _free_range(count: int) -> int:
    own = _own_ports()
    places = own[::count]
    # Another session, of another checkout, looks at the same ports: it begins somewhere else.
    first = os.getpid() * 31 % len(places)
    low: int
    for low in (*places[first:], *places[:first]):
        ports = range(low, low + count)
        if ports[-1] in own and _given_ports.isdisjoint(ports) and all(map(_is_free, ports)):
            _given_ports.update(ports)
            return low
    raise AssertionError(f"no {count} consecutive ports are free")


def _own_ports() -> range:
    """Below those that the kernel gives to clients; each process of pytest-xdist has its share."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    share = len(_PORTS) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return _PORTS[number * share : (number + 1) * share]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
