"""Downloads as units: what runs on without magid, what a person stops, what a unit may reach."""

import json
import random
from collections.abc import Iterator

import pytest

from tests.lab import serving
from tests.lab.container import booted
from tests.lab.downloading import LIBRARY, PATH, pull, reaches, unit_of, wait_for
from tests.lab.serving import Daemon
from tests.lab.trees import RELEASES, Release, Tree
from tests.support import ggufs
from tests.support.hub import HubFault, HubRepository, ModelHub

pytestmark = pytest.mark.slow

HOST = "127.0.0.7"  # the hub's own address: no other of 127.0.0.0/8 may be reached
TOKEN = "hf_" + "a" * 34
WEIGHTS = random.Random(5).randbytes(3_000_000)
BIG = "org/Big"


@pytest.fixture(scope="module", params=RELEASES, ids=str)
def daemon(
    request: pytest.FixtureRequest,
    all_trees: dict[Release, Tree],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Daemon, ModelHub]]:
    folder = tmp_path_factory.mktemp("downloads-lab")
    tiny = ggufs.write_chat_model(folder / "tiny-Q8_0.gguf", name="Tiny", quantization="Q8_0")
    repositories = {
        "org/Tiny": HubRepository({"tiny-Q8_0.gguf": tiny.read_bytes()}, is_gated=True),
        BIG: HubRepository({"big-Q8_0.gguf": WEIGHTS}),
    }
    with booted(all_trees[request.param]) as container:
        hub = container.network.call(lambda: ModelHub(repositories, token=TOKEN, host=HOST))
        settings = serving.SETTINGS.replace("[/models]", f"[/models, {LIBRARY}]")
        settings += f"downloads: {{endpoint: '{hub.url}', reserve: 0}}\n"
        container.write("/etc/magi/hub-token", TOKEN, 0o600)
        made = serving.installed_in(container, tiny, settings)
        made.wait_ready()
        try:
            yield made, hub
        finally:
            made.client.close()
            hub.close()


def test_a_pull_ends_in_a_model_that_answers(daemon: tuple[Daemon, ModelHub]) -> None:
    magid, hub = daemon
    container = magid.container
    done = container.run(["magictl", "pull", "org/Tiny", "--wait"])
    assert "org/Tiny is here" in done.stdout
    shown = container.run(["stat", "-c", "%U:%G %a", f"{LIBRARY}/org/Tiny/tiny-Q8_0.gguf"])
    assert shown.stdout.strip() == "magi-library:magi-models 644"
    assert {h.get("Authorization") for _, h in hub.requests_of("files")} == {None}
    container.wait_until(
        lambda: "tiny" in container.run(["magictl", "ls", "-q"]).stdout, "the model in the list"
    )
    model = next(m for m in container.run(["magictl", "ls", "-q"]).stdout.split() if "tiny" in m)
    assert "org/Tiny/tiny-Q8_0.gguf" in container.run(["magictl", "show", model]).stdout
    assert container.run(["magictl", "run", "org/Tiny", "Hello"]).stdout.strip()
    (row,) = [
        line.split()[:2]
        for line in container.run(["magictl", "outdated"]).stdout.splitlines()
        if line.startswith(model)
    ]
    assert row == [model, "current"], "a unit has asked the hub, with the token"


def test_what_the_unit_may_reach(daemon: tuple[Daemon, ModelHub]) -> None:
    magid, hub = daemon
    container = magid.container
    hub.faults += [HubFault("stall", 1_000_000)]
    job_id = pull(magid, BIG)["id"]
    wait_for(magid, job_id, "downloading")
    unit = unit_of(job_id)
    pid = container.pid_of(unit)
    inside = ["nsenter", "--target", str(pid), "--mount"]

    def listed(path: str) -> list[str]:
        return container.run([*inside, "ls", "-A", path]).stdout.split()

    assert listed("/etc/magi") == []
    assert listed("/models") == []
    assert listed("/var/lib/magi") == ["models"]
    assert "magid.sock" not in container.run([*inside, "find", "/run", "-type", "s"]).stdout
    shown = container.show(unit, "User", "NoNewPrivileges", "MemoryHigh", "CPUWeight")
    assert (shown["User"], shown["NoNewPrivileges"]) == ("magi-library", "yes")
    for name in ("cmdline", "environ"):
        assert TOKEN not in container.run(["cat", f"/proc/{pid}/{name}"]).stdout
    assert reaches(container, unit, hub.url)
    magids_own = "http://127.0.0.1:8000/livez"
    assert not reaches(container, unit, magids_own), "magid answers there, but not to the unit"
    assert magid.client.delete(f"{PATH}/{job_id}").status_code == 200
    assert container.show(unit, "LoadState")["LoadState"] == "not-found"
    assert not container.exists(f"{LIBRARY}/.downloads/{job_id}")


def test_ends_of_magid_and_of_the_unit(daemon: tuple[Daemon, ModelHub]) -> None:
    magid, hub = daemon
    container = magid.container
    hub.faults += [HubFault("stall", 1_000_000)]
    job_id = pull(magid, BIG)["id"]
    wait_for(magid, job_id, "downloading")
    container.wait_until(
        lambda: magid.client.get(f"{PATH}/{job_id}").json()["doneBytes"] >= 1_000_000, "1 MB"
    )
    unit = unit_of(job_id)
    pid = container.pid_of(unit)
    serving.replaced(container, "kill", "--signal=KILL", "magid")
    container.wait_until(magid.is_ready, "readiness")
    assert container.pid_of(unit) == pid, "it does without magid"
    hub.faults += [HubFault("stall", 500_000)]
    container.systemctl("kill", "--signal=KILL", unit)
    container.wait_until(lambda: container.pid_of(unit) not in (0, pid), "another process")
    container.wait_until(lambda: not hub.faults, "its request for the rest")
    # A person who stops the unit is respected, also by another magid.
    container.systemctl("stop", unit)
    paused = wait_for(magid, job_id, "paused")
    assert "stopped by a signal" in paused["reason"]
    serving.replaced(container, "restart", "magid")
    container.wait_until(magid.is_ready, "readiness")
    assert wait_for(magid, job_id, "paused")["state"] == "paused"
    assert container.pid_of(unit) == 0
    hub.asked.clear()
    assert magid.client.post(f"{PATH}/{job_id}/resume").status_code == 200
    wait_for(magid, job_id, "done")
    (begin,) = (head["Range"] for _, head in hub.requests_of("files"))
    assert int(begin.removeprefix("bytes=").removesuffix("-")) >= 1_000_000, begin
    assert container.read(f"{LIBRARY}/{BIG}/big-Q8_0.gguf") == WEIGHTS


def test_failures_are_failures_of_the_unit(daemon: tuple[Daemon, ModelHub]) -> None:
    magid, hub = daemon
    container = magid.container
    hub.repositories["org/Other"] = HubRepository({"o-Q8_0.gguf": WEIGHTS[::-1]})
    hub.faults += [HubFault("wrong")]
    job_id = pull(magid, "org/Other")["id"]
    assert wait_for(magid, job_id, "failed")["error"] == "DigestMismatch"
    unit = unit_of(job_id)
    container.wait_until(
        lambda: container.show(unit, "ActiveState")["ActiveState"] == "failed", "a failed unit"
    )
    assert not container.exists(f"{LIBRARY}/org/Other/o-Q8_0.gguf")
    said = [json.dumps(entry["MESSAGE"]) for entry in container.journal(unit)]
    assert any("DigestMismatch" in text or "digest" in text for text in said), said
    container.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", LIBRARY])
    try:
        container.run(["chgrp", "magi-models", LIBRARY])
        container.run(["chmod", "2775", LIBRARY])
        full = pull(magid, "org/Other")
        assert wait_for(magid, full["id"], "failed")["error"] == "DiskFull"
    finally:
        container.run(["umount", "--lazy", LIBRARY])
    assert magid.client.delete(f"{PATH}/{job_id}").status_code == 200
    assert container.show(unit, "LoadState")["LoadState"] == "not-found"


def test_a_token_that_others_may_read_is_refused(daemon: tuple[Daemon, ModelHub]) -> None:
    magid, _ = daemon
    magid.container.run(["chmod", "644", "/etc/magi/hub-token"])
    try:
        reply = magid.client.post(PATH, json={"source": BIG})
        assert (reply.status_code, reply.json()["error"]) == (403, "NotAllowed")
        assert "chmod 600" in reply.json()["message"]
    finally:
        magid.container.run(["chmod", "600", "/etc/magi/hub-token"])


def test_variants_are_asked_for_in_a_unit(daemon: tuple[Daemon, ModelHub]) -> None:
    magid, _ = daemon
    answer = magid.client.get("/api/library/variants", params={"source": BIG}).json()
    assert [v["file"] for v in answer["variants"]] == ["big-Q8_0.gguf"]
