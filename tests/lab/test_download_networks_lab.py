"""Downloads from one machine to another, and over reboots of the one that downloads."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from tests.lab.container import Container, booted
from tests.lab.downloading import LIBRARY, bytes_here, pull, reaches, unit_of, wait_for
from tests.lab.installing import install_magid
from tests.lab.network import link
from tests.lab.serving import UNITS, Daemon
from tests.lab.trees import Tree
from tests.support import ggufs
from tests.support.hub import HubFault, HubRepository, ModelHub

pytestmark = pytest.mark.slow

HUB, NEIGHBOUR, OWN = "10.77.0.1", "10.77.0.2", "10.77.0.3"
ADDRESSES = [f"{HUB}/24", f"{NEIGHBOUR}/24"], [f"{OWN}/24"]
NAME = "big-Q8_0.gguf"
PIECE = 1_000_000  # bytes that come before each disturbance


@dataclass
class Machines:
    """A hub on one machine, something else beside it at another address, and magid on the other."""

    serving: Container
    daemon: Daemon
    hub: ModelHub
    neighbour: ModelHub

    def link(self) -> None:
        link(self.serving.leader, self.daemon.container.leader, ADDRESSES)

    def back(self) -> None:
        """After a boot of magid's machine, whose network does not work yet."""
        self.daemon.client = self.daemon.container.client("http://127.0.0.1:8000")
        self.daemon.container.wait_until(self.daemon.is_ready, "readiness")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model whose first part is one too: half of it could be mistaken for the whole."""
    path = tmp_path_factory.mktemp("weights") / NAME
    head = ggufs.write_chat_model(path, name="Big", quantization="Q8_0").read_bytes()
    return head + random.Random(7).randbytes(3 * PIECE)


@pytest.fixture(scope="module")
def machines(tree: Tree, weights: bytes) -> Iterator[Machines]:
    repositories = {
        f"org/{name}": HubRepository({NAME: weights}) for name in ("Whole", "Interrupted")
    }
    with booted(tree) as serving, booted(tree) as container:
        hubs: list[ModelHub] = []
        link(serving.leader, container.leader, ADDRESSES)
        for host in (HUB, NEIGHBOUR):
            hubs.append(serving.network.call(partial(ModelHub, repositories, host=host)))
        install_magid(container)
        settings = f"downloads: {{endpoint: '{hubs[0].url}', reserve: 0}}\n"
        container.write("/etc/magi/magid.yaml", f"model_paths: [{LIBRARY}]\n{settings}")
        container.systemctl("enable", "--now", *UNITS)
        made = Machines(serving, Daemon(container), *hubs)
        container.wait_until(made.daemon.is_ready, "readiness")
        try:
            yield made
        finally:
            made.daemon.client.close()
            for hub in hubs:
                hub.close()


def offered(daemon: Daemon) -> set[str]:
    """The files of all models that are known, once the folders have been read again."""
    daemon.client.post("/api/models/rescan").raise_for_status()
    listed = daemon.client.get("/api/models/registry").json()["models"]
    return {model["filePath"] for model in listed.values()}


def check_nothing_is_offered(daemon: Daemon, repository: str) -> None:
    assert not daemon.container.exists(f"{LIBRARY}/{repository}")
    assert not {path for path in offered(daemon) if repository in path or "download" in path}


def check_is_whole(daemon: Daemon, repository: str, weights: bytes) -> None:
    path = f"{LIBRARY}/{repository}/{NAME}"
    assert daemon.container.read(path) == weights
    shown = daemon.container.run(["stat", "-c", "%U:%G %a", path]).stdout
    assert shown.strip() == "magi-library:magi-models 644"
    assert path in offered(daemon)


def test_a_pull_from_another_machine(machines: Machines, weights: bytes) -> None:
    """The unit reaches its endpoint, and no other private address, though the machine does."""
    daemon, hub = machines.daemon, machines.hub
    container = daemon.container
    hub.faults += [HubFault("stall", PIECE)]
    job_id = pull(daemon, "org/Whole")["id"]
    unit = unit_of(job_id)
    wait_for(daemon, job_id, "downloading")
    assert container.show(unit, "User", "NoNewPrivileges") == {
        "User": "magi-library", "NoNewPrivileges": "yes",
    }  # fmt: skip
    for url in (hub.url, machines.neighbour.url):
        container.run(["curl", "--silent", "--output", "/dev/null", "--max-time", "20", url])
    assert reaches(container, unit, hub.url)
    assert not reaches(container, unit, machines.neighbour.url)
    assert not reaches(container, unit, f"http://{OWN}:8000/livez")
    check_nothing_is_offered(daemon, "org/Whole")
    hub.released.set()  # the connection ends, and the rest is asked for
    wait_for(daemon, job_id, "done")
    hub.released.clear()
    check_is_whole(daemon, "org/Whole", weights)
    assert {path.split("?")[0] for path, _ in hub.requests_of("files")} == {f"/org/Whole/{NAME}"}
    assert not machines.neighbour.requests_of("files")


def begins(hub: ModelHub) -> list[int]:
    """Where the requests for the file begin."""
    ranges = (head.get("Range", "bytes=0-") for _, head in hub.requests_of("files"))
    return [int(text.removeprefix("bytes=").removesuffix("-")) for text in ranges]


def wait_for_bytes(container: Container, job_id: str, count: int) -> None:
    container.wait_until(lambda: bytes_here(container, job_id) >= count, f"{count} bytes")


def plug_pulled(container: Container) -> None:
    container.crash()
    container.boot()


def test_a_download_goes_on_by_itself_after_reboots(machines: Machines, weights: bytes) -> None:
    """From the bytes that it had, after a shutdown and a power cut, once there is a network."""
    daemon, hub = machines.daemon, machines.hub
    container, source = daemon.container, "org/Interrupted"
    hub.asked.clear()
    hub.faults += [HubFault("stall", PIECE), HubFault("stall", PIECE)]
    job_id = pull(daemon, source)["id"]
    for ended, least in ((Container.reboot, PIECE), (plug_pulled, 2 * PIECE)):
        wait_for_bytes(container, job_id, least)
        daemon.client.close()
        ended(container)
        machines.back()
        wait_for(daemon, job_id, "downloading", reason="next try")
        assert bytes_here(container, job_id) == least
        check_nothing_is_offered(daemon, source)
        machines.link()
    wait_for(daemon, job_id, "done")
    assert begins(hub) == [0, PIECE, 2 * PIECE]
    check_is_whole(daemon, source, weights)
