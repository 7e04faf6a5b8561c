"""`magictl outdated`: what a hub says of the models that were downloaded from it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from magid.errors import HubFailed, InvalidInput, ServerFailed
from magid.library import updates
from magid.library.origins import Origin
from magid.library.source import ModelSource
from tests.support import ggufs
from tests.support.hub import HubFault, HubRepository, ModelHub, running_hub
from tests.support.magictl import Done, magictl
from tests.support.rest import Parts
from tests.support.running import Running

NAMES = ("Newer", "Gated", "Gone", "Same")
PATH = "/api/library/outdated"
SOURCE = ModelSource("org/Two", file="two-1.gguf")


def origin(path: str, oid: str, **changes: Any) -> Origin:
    fields = {
        "endpoint": "https://hub", "repository": "org/Two", "revision": "main", "commit": "c",
        "licence": "", "path": path, "oid": oid, "downloaded_at": 1.0, **changes,
    }  # fmt: skip
    return Origin(**fields)


KNOWN = [origin("two-1.gguf", "a"), origin("mmproj.gguf", "b")]


@pytest.mark.parametrize(
    ("there", "state", "files"),
    [
        ({"two-1.gguf": "a", "mmproj.gguf": "b"}, updates.CURRENT, ()),
        ({"two-1.gguf": "x", "mmproj.gguf": "b"}, updates.NEWER, ("two-1.gguf",)),
        ({"two-1.gguf": "a", "mmproj.gguf": "x"}, updates.NEWER, ("mmproj.gguf",)),
        ({"two-1.gguf": "a"}, updates.CURRENT, ()),  # what came along may go there
        ({"two-1.gguf": "a", "mmproj.gguf": "b", "more.gguf": "z"}, updates.CURRENT, ()),
    ],
)
def test_files_are_compared_by_their_digests(
    there: dict[str, str], state: str, files: tuple[str, ...]
) -> None:
    found = updates.compared("two", SOURCE, KNOWN, {"commit": "d", "files": there})
    assert (found.state, found.files, found.commit, found.latest) == (state, files, "c", "d")
    assert found.source == "org/Two/two-1.gguf"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (HubFailed("cannot", cause="RepositoryGated"), updates.GATED),
        (HubFailed("cannot", cause="RepositoryNotFound"), updates.GONE),
        (HubFailed("cannot", cause="VariantNotFound"), updates.GONE),
        (HubFailed("cannot", cause="HubUnreachable"), updates.OFFLINE),
        (HubFailed("cannot", cause="TokenRefused"), updates.REFUSED),
        (ServerFailed("cannot"), updates.OFFLINE),
    ],
)
def test_each_failure_has_its_word(error: Exception, state: str) -> None:
    assert isinstance(error, HubFailed | ServerFailed)
    found = updates.failed("two", SOURCE, KNOWN, error)
    assert (found.state, found.reason) == (state, "cannot")


def test_an_origin_that_names_no_source() -> None:
    with pytest.raises(InvalidInput):
        updates.source_of([origin("two.gguf", "a", repository="--help")])


# -- with a hub --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelHub]:
    folder = tmp_path_factory.mktemp("hub")
    repositories = {}
    for name in NAMES:
        path = ggufs.write_chat_model(folder / f"{name}-Q8_0.gguf", name=name, quantization="Q8_0")
        repositories[f"org/{name}"] = HubRepository({path.name: path.read_bytes()})
    with running_hub(repositories) as hub:
        yield hub


@pytest.fixture(scope="module")
def daemon(
    parts: Parts, hub: ModelHub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    settings = f"downloads: {{endpoint: '{hub.url}', reserve: 0}}\n"
    running = parts.daemon(tmp_path_factory.mktemp("outdated"), settings)
    running.environment["MAGI_LIBRARY_PATH"] = str(running.models)
    ggufs.write_chat_model(running.models / "Copied-Q8_0.gguf", name="Copied", quantization="Q8_0")
    with running, running.client:
        for name in NAMES:
            typed(running, f"pull org/{name} --wait")
        yield running


def typed(daemon: Running, line: str) -> Done:
    done = magictl(*line.split(), url=daemon.url)
    assert done.returncode == 0, done
    return done


def states(daemon: Running) -> dict[str, str]:
    """By the first word of the model's id."""
    models = daemon.get(PATH)["models"]
    return {model["modelId"].partition("_")[0]: model["state"] for model in models}


def files_of(daemon: Running) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in daemon.models.rglob("*.gguf")}


@pytest.mark.slow
def test_it_tells_and_changes_nothing(daemon: Running, hub: ModelHub) -> None:
    same = dict.fromkeys(("newer", "gated", "gone", "same"), "current")
    assert states(daemon) == {**same, "copied": "unknown"}
    newer = hub.repositories["org/Newer"]
    before = newer.commit
    newer.files = {"Newer-Q8_0.gguf": hub.repositories["org/Same"].files["Same-Q8_0.gguf"]}
    hub.repositories["org/Gated"].is_gated = True
    del hub.repositories["org/Gone"]
    here, downloads = files_of(daemon), daemon.get("/api/library/downloads")
    assert states(daemon) == {
        "newer": "newer", "gated": "gated", "gone": "gone", "same": "current", "copied": "unknown",
    }  # fmt: skip
    (row,) = [m for m in daemon.get(PATH)["models"] if m["state"] == "newer"]
    assert (row["commit"], row["latest"]) == (before, newer.commit)
    assert (row["source"], row["files"]) == ("org/Newer/Newer-Q8_0.gguf", ["Newer-Q8_0.gguf"])
    assert (files_of(daemon), daemon.get("/api/library/downloads")) == (here, downloads)


@pytest.mark.slow
def test_a_person_sees_what_to_do(daemon: Running) -> None:
    """And does it: only then is the model the newer one."""
    shown = typed(daemon, "outdated")
    rows = {
        line.split()[0].partition("_")[0]: line.split()[1] for line in shown.stdout.splitlines()
    }
    assert rows["newer"] == "newer"
    assert "accept the terms at" in shown.stdout
    assert "nothing tells where it came from" in shown.stdout
    assert shown.stderr == "try: magictl pull org/Newer/Newer-Q8_0.gguf\n"
    assert json.loads(typed(daemon, "outdated --json").stdout).keys() == {"models"}
    typed(daemon, "pull org/Newer/Newer-Q8_0.gguf --wait")
    assert "newer" not in states(daemon).values()


@pytest.mark.slow
def test_a_failure_of_one_ends_nothing_else(daemon: Running, hub: ModelHub) -> None:
    before = list(states(daemon).values())
    hub.api_faults.append(HubFault("status", status=500))  # of whichever comes first
    found = list(states(daemon).values())
    changed = [now for now, then in zip(found, before, strict=True) if now != then]
    assert changed == ["offline"]
