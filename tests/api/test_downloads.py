"""Downloads by the REST API, with children of magid: from the request to an offered model."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import ggufs
from tests.support.deadlines import PATIENCE_S
from tests.support.hub import HubFault, HubRepository, ModelHub, running_hub
from tests.support.rest import Parts
from tests.support.running import Running

pytestmark = pytest.mark.slow

PATH = "/api/library/downloads"
TINY = "org/Tiny:Q8_0"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ModelHub]:
    tiny = ggufs.write_chat_model(tmp_path / "tiny-Q8_0.gguf", name="Tiny").read_bytes()
    repositories = {"org/Tiny": HubRepository({"tiny-Q8_0.gguf": tiny, "README.md": b"x"})}
    with running_hub(repositories) as hub:
        yield hub


@pytest.fixture
def magid(parts: Parts, hub: ModelHub, tmp_path: Path) -> Iterator[Running]:
    folder = tmp_path / "magid"
    folder.mkdir()
    running = parts.daemon(folder, f"downloads: {{endpoint: '{hub.url}', reserve: 0}}\n")
    running.environment["MAGI_LIBRARY_PATH"] = str(running.models)
    with running, running.client:
        yield running


def pull(magid: Running, source: str = TINY) -> Any:
    return magid.ask("POST", PATH, {"source": source}, status=202)


def wait_for(magid: Running, job_id: str, state: str) -> Any:
    """The download once it is in this state; looked at after each event."""
    found: dict[str, Any] = {}

    def is_so() -> bool:
        found.update(magid.get(f"{PATH}/{job_id}"))
        return bool(found["state"] == state)

    magid.wait_for(f"{state} of {job_id}", is_so)
    return found


def test_a_pulled_model_is_offered(magid: Running, hub: ModelHub) -> None:
    started = pull(magid)
    assert (started["state"], started["source"]) == ("queued", TINY)
    done = wait_for(magid, started["id"], "done")
    assert (
        done["doneBytes"]
        == done["totalBytes"]
        == hub.repositories["org/Tiny"].size("tiny-Q8_0.gguf")
    )
    magid.wait_for("the model", lambda: bool(magid.get("/api/models/registry")["models"]))
    (model_id,) = magid.get("/api/models/registry")["models"]
    origin = magid.get(f"/api/models/{model_id}")["origin"]
    assert origin["repository"] == "org/Tiny"
    assert origin["commit"] == hub.repositories["org/Tiny"].commit
    assert origin["licence"] == "apache-2.0"
    assert [d["id"] for d in magid.get(PATH)["downloads"]] == [started["id"]]
    text = httpx.get(f"{magid.url}/metrics", trust_env=False).text
    assert 'magi_downloads{state="done"} 1' in text
    magid.ask("DELETE", f"{PATH}/{started['id']}")
    assert magid.get(PATH)["downloads"] == []
    assert list(magid.models.rglob("tiny-Q8_0.gguf")), "a model that is whole stays"


def test_pause_resume_and_remove(magid: Running, hub: ModelHub) -> None:
    hub.faults += [HubFault("stall", 1000)]
    job_id = pull(magid)["id"]
    wait_for(magid, job_id, "downloading")
    paused = magid.ask("POST", f"{PATH}/{job_id}/pause")
    assert (paused["state"], paused["reason"]) == ("paused", "")
    hub.faults += [HubFault("stall", 1000)]
    magid.ask("POST", f"{PATH}/{job_id}/resume")
    wait_for(magid, job_id, "downloading")
    magid.ask("DELETE", f"{PATH}/{job_id}")
    assert magid.get(PATH)["downloads"] == []
    magid.ask("POST", f"{PATH}/{job_id}/pause", status=404)
    assert not list(magid.models.rglob("*.part"))


def test_a_library_that_comes_late_is_resumed_after_a_scan(magid: Running, hub: ModelHub) -> None:
    hub.faults += [HubFault("stall", 1000)]
    job_id = pull(magid)["id"]
    wait_for(magid, job_id, "downloading")
    magid.kill()
    hub.released.set()
    jobs, aside = magid.models / ".downloads", magid.models.parent / "aside"
    jobs.rename(aside)
    record = magid.state / "downloads.json"
    record.unlink()
    magid.start()
    deadline = time.monotonic() + PATIENCE_S
    while not record.exists():  # written after the first look
        assert time.monotonic() < deadline
        time.sleep(0.01)
    aside.rename(jobs)
    magid.ask("POST", "/api/models/rescan")
    magid.wait_for("the model", lambda: bool(magid.get("/api/models/registry")["models"]))


def test_a_restart_of_magid_resumes(magid: Running, hub: ModelHub) -> None:
    hub.faults += [HubFault("stall", 1000)]
    job_id = pull(magid)["id"]
    wait_for(magid, job_id, "downloading")
    magid.kill()
    hub.released.set()
    magid.start()
    wait_for(magid, job_id, "done")


def test_the_stream_tells_of_downloads(magid: Running, hub: ModelHub) -> None:
    """Its snapshot has those there are; then come changes, and removals, by any client."""
    hub.faults += [HubFault("stall", 1000), HubFault("stall", 1000)]
    events = magid.events()
    kind, before = next(events)
    assert (kind, before["downloads"]) == ("snapshot", magid.get(PATH))
    job_id = pull(magid)["id"]
    told = next(data["download"] for kind, data in events if kind == "download")
    assert (told["id"], told["state"]) == (job_id, "queued")
    wait_for(magid, job_id, "downloading")
    _, later = next(magid.events())
    assert [d["id"] for d in later["downloads"]["downloads"]] == [job_id]
    magid.ask("DELETE", f"{PATH}/{job_id}")
    assert removed(events) == job_id
    job_id = pull(magid)["id"]
    wait_for(magid, job_id, "downloading")
    paused = magid.ask("POST", f"{PATH}/{job_id}/pause")
    assert paused["state"] == "paused"
    shutil.rmtree(magid.models / ".downloads" / job_id)
    assert magid.get(PATH)["downloads"] == []
    assert removed(events) == job_id


def removed(events: Iterator[tuple[str, Any]]) -> str:
    return next(str(data["id"]) for kind, data in events if kind == "downloadRemoved")


def test_variants(magid: Running, hub: ModelHub) -> None:
    answer = magid.get("/api/library/variants?source=org/Tiny")
    (variant,) = answer["variants"]
    assert (variant["name"], variant["file"], variant["fits"]) == (
        "Q8_0",
        "tiny-Q8_0.gguf",
        "memory",
    )
    assert answer["commit"] == hub.repositories["org/Tiny"].commit
    refused = magid.ask("GET", "/api/library/variants?source=org/None", status=502)
    assert (refused["error"], refused["details"]["cause"]) == ("HubFailed", "RepositoryNotFound")


def test_a_failure_says_why(magid: Running) -> None:
    job_id = pull(magid, "org/Tiny:Q2_K")["id"]
    failed = wait_for(magid, job_id, "failed")
    assert failed["error"] == "VariantNotFound"
    assert "it has Q8_0" in failed["reason"]
    assert magid.ask("POST", PATH, {"source": "nonsense"}, status=400)["error"] == "InvalidInput"


def test_without_a_library_nothing_is_downloaded(parts: Parts, tmp_path: Path) -> None:
    with parts.daemon(tmp_path / "magid") as magid, magid.client:
        refused = magid.ask("POST", PATH, {"source": TINY}, status=403)
        assert "set library_path" in refused["message"]
        assert magid.get(PATH) == {"downloads": [], "library": None}
