"""Downloads from a hub that misbehaves: nothing half is offered, nothing whole is lost."""

import hashlib
import json
import os
import random
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from magid.library import job, origins
from magid.library.source import ModelSource, parse
from magid.library.transfer.http_client import HttpClient, HubSilent
from tests.support.deadlines import DEADLINE_S
from tests.support.hub import HubFault, HubRepository, ModelHub, running_hub
from tests.support.transfers import Transfers

MODEL = random.Random(1).randbytes(3_000_000)
OTHER = random.Random(2).randbytes(700_000)
PROJECTOR = random.Random(3).randbytes(50_000)
TOKEN = "hf_" + "a" * 34
PLAIN = ModelSource("org/Plain")
SHARDED = ModelSource("org/Sharded")
PATH = "org/Plain/m-Q4_K_M.gguf"


@pytest.fixture
def hub() -> Iterator[ModelHub]:
    sharded: dict[str, bytes | Path] = {
        "Q4_K_M/s-Q4_K_M-00001-of-00002.gguf": MODEL,
        "Q4_K_M/s-Q4_K_M-00002-of-00002.gguf": OTHER,
        "mmproj-F16.gguf": PROJECTOR,
    }
    repositories = {
        "org/Plain": HubRepository({"README.md": b"# Plain\n", "m-Q4_K_M.gguf": MODEL}),
        "org/Sharded": HubRepository(sharded, licence="mit"),
        "org/Gated": HubRepository({"g-Q8_0.gguf": OTHER}, is_gated=True),
        "org/Old": HubRepository({}, renamed_to="org/Plain"),
    }
    with running_hub(repositories, token=TOKEN) as hub:
        yield hub


@pytest.fixture
def transfers(tmp_path: Path, hub: ModelHub) -> Transfers:
    library = tmp_path / "models"
    library.mkdir()
    return Transfers(library, hub)


def test_a_model_comes_with_shards_projector_and_origin(transfers: Transfers) -> None:
    status = transfers.run(SHARDED)
    assert (status.state, status.done, status.licence) == ("done", status.total, "mit")
    assert transfers.models == {
        "org/Sharded/Q4_K_M/s-Q4_K_M-00001-of-00002.gguf": MODEL,
        "org/Sharded/Q4_K_M/s-Q4_K_M-00002-of-00002.gguf": OTHER,
        "org/Sharded/mmproj-F16.gguf": PROJECTOR,
    }
    origin = origins.read(transfers.library / "org/Sharded/mmproj-F16.gguf")
    assert origin is not None
    assert (origin.repository, origin.commit) == ("org/Sharded", status.commit)
    assert origin.oid == hashlib.sha256(PROJECTOR).hexdigest()
    assert not list(transfers.folder(SHARDED).glob("*.part"))
    mode = (transfers.library / "org/Sharded/mmproj-F16.gguf").stat().st_mode
    assert mode & 0o777 == 0o644


def test_what_is_here_is_not_fetched_again(transfers: Transfers, hub: ModelHub) -> None:
    transfers.run(PLAIN)
    hub.asked.clear()
    assert transfers.run(PLAIN).state == "done"
    origins.origin_path(transfers.library / PATH).unlink()  # then by its digest
    assert transfers.run(PLAIN).state == "done"
    assert not hub.requests_of("files")
    (transfers.library / PATH).write_bytes(bytes(len(MODEL)))
    origins.origin_path(transfers.library / PATH).unlink()
    assert transfers.run(PLAIN).state == "done"
    assert transfers.models[PATH] == MODEL


@pytest.mark.parametrize("kind", ["cut", "stall"])
def test_a_connection_that_fails_is_resumed(transfers: Transfers, hub: ModelHub, kind: str) -> None:
    transfers.options["stall"] = "1"
    hub.faults += [
        HubFault(kind, 1_000_000),
        HubFault(kind, 500_000),
        HubFault("status", status=502),
    ]
    hub.faults += [HubFault("status", status=429, retry_after="1"), HubFault("status", status=403)]
    assert transfers.run(PLAIN).state == "done"
    assert transfers.models[PATH] == MODEL
    begins = [head.get("Range") for _, head in hub.requests_of("files")]
    assert begins == [None, "bytes=1000000-", *["bytes=1500000-"] * 4]


def test_a_hub_that_does_not_resume(transfers: Transfers, hub: ModelHub) -> None:
    hub.faults += [HubFault("cut", 1_000_000), HubFault("whole")]
    status = transfers.run(PLAIN)
    assert status.state == "done"
    assert transfers.models[PATH] == MODEL
    assert "starts over: the source does not continue" in status.notes[0]


def test_a_failing_hub_is_given_up(transfers: Transfers, hub: ModelHub) -> None:
    hub.faults += [HubFault("cut", 1_000_000), *[HubFault("status", status=500)] * 99]
    status = transfers.run(PLAIN)
    assert (status.state, status.code) == ("failed", "HubUnreachable")
    assert not transfers.models
    hub.faults.clear()
    hub.asked.clear()
    assert transfers.run(PLAIN).state == "done"
    assert hub.requests_of("files")[0][1]["Range"] == "bytes=1000000-"


def test_a_wrong_digest_is_never_offered(transfers: Transfers, hub: ModelHub) -> None:
    hub.faults += [HubFault("wrong")]
    status = transfers.run(PLAIN)
    assert (status.state, status.code) == ("failed", "DigestMismatch")
    assert hashlib.sha256(MODEL).hexdigest() in status.reason
    assert not transfers.models
    assert not list(transfers.folder(PLAIN).glob("*.part"))
    assert transfers.run(PLAIN).state == "done"


def test_a_beginning_that_was_damaged_starts_over_by_itself(
    transfers: Transfers, hub: ModelHub
) -> None:
    hub.faults += [HubFault("stall", 2_000_000)]
    with transfers.running(PLAIN):
        transfers.wait_for(PLAIN, "downloading", 2_000_000)
    (part,) = transfers.folder(PLAIN).glob("*.part")
    part.write_bytes(bytes(2_000_000))
    status = transfers.run(PLAIN)
    assert status.state == "done"
    assert transfers.models[PATH] == MODEL
    assert "starts over: its digest is" in status.notes[0]


def test_a_source_that_changes_meanwhile(transfers: Transfers, hub: ModelHub) -> None:
    hub.faults += [HubFault("stall", 1_000_000)]
    with transfers.running(SHARDED) as process:
        transfers.wait_for(SHARDED, "downloading", 1_000_000)
        process.kill()
    hub.repositories["org/Sharded"].files["Q4_K_M/s-Q4_K_M-00001-of-00002.gguf"] = OTHER[::-1]
    status = transfers.run(SHARDED)
    assert status.state == "done"
    assert transfers.models["org/Sharded/Q4_K_M/s-Q4_K_M-00001-of-00002.gguf"] == OTHER[::-1]
    assert status.notes == ["the repository has changed meanwhile: of 3 files, 1 start over"]
    assert status.commit == hub.repositories["org/Sharded"].commit


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_process_that_ends_is_resumed(transfers: Transfers, hub: ModelHub, how: str) -> None:
    hub.faults += [HubFault("stall", 2_000_000)]
    with transfers.running(PLAIN) as process:
        transfers.wait_for(PLAIN, "downloading", 2_000_000)
        lock = transfers.folder(PLAIN) / job.LOCK
        assert job.is_held(lock)
        if how == "stop":
            assert transfers.stop(process) == 0
        else:
            process.kill()
            process.wait(DEADLINE_S)
    assert not job.is_held(lock)
    status = transfers.status(PLAIN)
    assert (status.state, status.was_stopped) == (
        ("paused", True) if how == "stop" else ("downloading", False)
    )
    assert not transfers.models
    hub.asked.clear()
    assert transfers.run(PLAIN).state == "done"
    assert transfers.models[PATH] == MODEL
    assert hub.requests_of("files")[0][1]["Range"] == "bytes=2000000-"


def test_pause_and_remove(transfers: Transfers, hub: ModelHub) -> None:
    hub.faults += [HubFault("stall", 2_000_000)]
    with transfers.running(PLAIN) as process:
        transfers.wait_for(PLAIN, "downloading", 2_000_000)
        assert transfers.act("run", PLAIN).returncode == 0  # there is one already
        transfers.stop(process)
    assert transfers.act("pause", PLAIN).returncode == 0
    status = transfers.status(PLAIN)
    assert (status.state, status.was_stopped) == ("paused", False)
    for _ in range(2):
        assert transfers.act("remove", PLAIN).returncode == 0
        assert not transfers.folder(PLAIN).exists()


def test_only_so_many_at_once_and_the_oldest_first(transfers: Transfers, hub: ModelHub) -> None:
    transfers.options["at-once"] = "1"
    hub.faults += [HubFault("stall", 1_000_000)]
    gated = ModelSource("org/Gated")
    hub.repositories["org/Gated"].is_gated = False
    with transfers.running(PLAIN) as process:
        transfers.wait_for(PLAIN, "downloading", 1_000_000)
        with transfers.running(SHARDED), transfers.running(gated):
            transfers.wait_for(SHARDED, "queued")
            transfers.wait_for(gated, "queued")
            transfers.stop(process)
            transfers.wait_for(SHARDED, "done")
            transfers.wait_for(gated, "done")


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        ("org/None", "RepositoryNotFound", "no repository of that name"),
        ("org/Gated", "RepositoryGated", "accept the terms at http"),
        ("org/Old", "RepositoryRenamed", "it is called org/Plain now"),
        ("org/Plain@gone", "RevisionNotFound", "no revision 'gone'"),
        ("org/Plain:Q5_0", "VariantNotFound", "it has Q4_K_M"),
        ("org/Plain/x.gguf", "VariantNotFound", "no file x.gguf"),
    ],
)
def test_refusals(transfers: Transfers, source: str, code: str, says: str) -> None:
    status = transfers.run(parse(source))
    assert (status.state, status.code) == ("failed", code)
    assert status.reason.startswith("cannot pull ")
    assert says in status.reason


def test_a_hub_that_is_not_there(transfers: Transfers, hub: ModelHub) -> None:
    hub.close()
    transfers.options["give-up"] = "0.2"
    status = transfers.run(PLAIN)
    assert (status.state, status.code) == ("failed", "HubUnreachable")
    assert "refused" in status.reason


def test_the_token_goes_to_the_endpoint_alone(
    transfers: Transfers, hub: ModelHub, tmp_path: Path
) -> None:
    transfers.token_path = tmp_path / "token"
    transfers.token_path.write_text(f"{TOKEN}\n")
    source = ModelSource("org/Gated")
    assert transfers.run(source).state == "done"
    assert {h.get("Authorization") for _, h in hub.requests_of("api")} == {f"Bearer {TOKEN}"}
    assert [h.get("Authorization") for _, h in hub.requests_of("files")] == [None]
    kept = [
        p for p in transfers.library.rglob("*") if p.is_file() and TOKEN in p.read_text("latin1")
    ]
    assert not kept


def test_a_token_that_the_hub_refuses(transfers: Transfers, tmp_path: Path) -> None:
    transfers.token_path = tmp_path / "token"
    transfers.token_path.write_text("hf_wrong")
    status = transfers.run(PLAIN)
    assert (status.state, status.code) == ("failed", "TokenRefused")
    assert "hf_wrong" not in status.reason


def test_a_proxy_is_used_but_where_it_must_not(transfers: Transfers, hub: ModelHub) -> None:
    transfers.environment["http_proxy"] = hub.files_url  # it sees whole addresses, and answers 404
    transfers.options["give-up"] = "0.1"
    assert transfers.run(PLAIN).state == "failed"
    assert hub.requests_of("files")[0][0].startswith(f"{hub.url}/api/models/org/Plain")
    transfers.environment["no_proxy"] = "127.0.0.1"
    assert transfers.run(PLAIN).state == "done"


def test_a_full_disk(transfers: Transfers, hub: ModelHub) -> None:
    free = os.statvfs(transfers.library)
    transfers.options["reserve"] = str(free.f_bavail * free.f_frsize)
    status = transfers.run(PLAIN)
    assert (status.state, status.code) == ("failed", "DiskFull")
    assert "reserved; make room" in status.reason
    assert not hub.requests_of("files")


def test_a_rate_limit(transfers: Transfers, hub: ModelHub) -> None:
    transfers.options["rate-limit"] = "20000000"
    assert transfers.run(PLAIN).state == "done"
    transfers.options["rate-limit"] = "1"
    with transfers.running(SHARDED):
        transfers.wait_for(SHARDED, "downloading", 1)  # and no more for a long time


def test_the_list_of_variants(transfers: Transfers) -> None:
    answer = json.loads(transfers.act("list", SHARDED).stdout)
    assert answer["variants"] == [
        {
            "name": "Q4_K_M", "file": "Q4_K_M/s-Q4_K_M-00001-of-00002.gguf", "files": 2,
            "companions": ["mmproj-F16.gguf"],
            "sizeBytes": len(MODEL) + len(OTHER) + len(PROJECTOR),
        }
    ]  # fmt: skip
    assert (
        json.loads(transfers.act("list", ModelSource("o/none")).stdout)["error"]
        == "RepositoryNotFound"
    )


def test_the_files_that_a_model_has_there(transfers: Transfers) -> None:
    """And all that could have come along with it; no other model's."""
    answer = json.loads(transfers.act("check", SHARDED).stdout)
    assert answer["files"].keys() == {
        "Q4_K_M/s-Q4_K_M-00001-of-00002.gguf", "Q4_K_M/s-Q4_K_M-00002-of-00002.gguf",
        "mmproj-F16.gguf",
    }  # fmt: skip
    gone = ModelSource(SHARDED.repository, file="gone.gguf")
    assert json.loads(transfers.act("check", gone).stdout)["error"] == "VariantNotFound"


def test_a_library_that_cannot_be_written(transfers: Transfers) -> None:
    (transfers.library / job.JOBS).write_text("")
    done = transfers.act("run", PLAIN)
    assert done.returncode == 1
    assert "cannot run the download" in done.stderr


def test_the_program_needs_the_standard_library_alone(tmp_path: Path) -> None:
    lines = "import sys, magid.library.transfer.__main__ as m; print(*sys.modules)"
    done = subprocess.run(
        ["python3", "-IS", "-c", f"import sys; sys.path.insert(0, {str(Path.cwd())!r}); {lines}"],
        capture_output=True, text=True, check=True, timeout=DEADLINE_S,
    )  # fmt: skip
    foreign = {"msgspec", "pydantic", "sanic", "asyncio", "psutil", "yaml"}
    assert not foreign & set(done.stdout.split())


def test_statuses_are_read_whole_or_not_at_all(transfers: Transfers) -> None:
    """A reader never sees half of a status, however often it looks."""
    transfers.run(PLAIN)
    folder, status = transfers.folder(PLAIN), transfers.status(PLAIN)
    over = threading.Event()

    def write() -> None:
        for at in range(300):
            status.notes = ["x" * at]
            job.write_status(folder, status, durably=False)
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not over.is_set():
        assert job.read_status(folder) is not None
    writer.join()
    (folder / job.STATUS).write_text('{"id": 3}')
    assert job.read_status(folder) is None


class _HostileRepository(HubRepository):
    """Its digests lead out of the job's folder, if they are taken as names."""

    def oid(self, path: str) -> str:
        return "../../../outside"


def test_a_digest_is_no_path(transfers: Transfers, hub: ModelHub) -> None:
    hub.repositories["org/Hostile"] = _HostileRepository({"m-Q4_K_M.gguf": MODEL})
    status = transfers.run(ModelSource("org/Hostile"))
    assert (status.state, status.code) == ("failed", "VariantNotFound")
    assert [path.name for path in transfers.library.parent.iterdir()] == ["models"]


def test_an_https_hub_leads_to_no_plain_address(hub: ModelHub) -> None:
    client = HttpClient("https://hub.example", "", 1.0)
    with pytest.raises(HubSilent, match="not https"):
        client.get(f"{hub.url}/api/models/org/Plain", {})
    assert not hub.asked


@pytest.mark.parametrize(
    "broken",
    [
        {"created_at": 1e300},
        {"updated_at": float("nan")},
        {"rate": float("inf")},
        {"source": {"repository": "org/Plain", "tag": 5}},
        {"source": {"repository": "../x"}},
        {"files": [{"path": "a.gguf", "size": 1, "oid": "../../x"}]},
        {"files": [{"path": "a.gguf", "size": 10**400, "oid": "0" * 40}]},
        {"files": [{"path": "a.gguf", "size": 1, "oid": "0" * 40, "etag": 1}]},
    ],
)
def test_a_status_that_no_download_has_written(
    transfers: Transfers, broken: dict[str, object]
) -> None:
    transfers.run(PLAIN)
    path = transfers.folder(PLAIN) / job.STATUS
    path.write_text(json.dumps(json.loads(path.read_bytes()) | broken))
    assert job.read_status(transfers.folder(PLAIN)) is None


def test_files_nested_without_end_are_none(transfers: Transfers) -> None:
    transfers.run(PLAIN)
    nested = "[" * 60_000
    (transfers.folder(PLAIN) / job.STATUS).write_text(nested)
    assert job.read_status(transfers.folder(PLAIN)) is None
    origins.origin_path(transfers.library / PATH).write_text(nested)
    assert origins.read(transfers.library / PATH) is None
