"""What the hub has of several models: asked by one process, side by side, each answer by itself."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from magid.errors import InvalidInput
from magid.library.downloads.updates import outdated
from magid.library.origins import Origin
from magid.library.source import ModelSource
from magid.library.transfer import checking
from magid.library.transfer.hub import Hub, Revision
from magid.library.transfer.running import Options
from magid.library.transfer_command import MOST_CHECKED
from magid.library.updates import CURRENT, NEWER, OFFLINE, REFUSED, UNKNOWN, answers_in
from tests.support.deadlines import DEADLINE_S
from tests.support.hub import HubFault, HubRepository, ModelHub, running_hub

NAMES = [f"org/R{number}" for number in range(8)]


def repository(*names: str) -> HubRepository:
    return HubRepository({name: name.encode() * 500 for name in names})


@pytest.fixture
def hub() -> Iterator[ModelHub]:
    with running_hub({name: repository("a-Q8_0.gguf", "b-Q4_0.gguf") for name in NAMES}) as hub:
        yield hub


def answers(hub: ModelHub, *sources: ModelSource, deadline_s: float = DEADLINE_S) -> list[Any]:
    lines: list[str] = []
    options = Options(Path("/nowhere"), hub.url)
    checking.check(options.hub, sources, lines.append, deadline_s)
    assert sorted(json.loads(line)["model"] for line in lines) == list(range(len(sources)))
    return answers_in("".join(lines), len(sources))


def of(name: str, file: str = "a-Q8_0.gguf") -> ModelSource:
    return ModelSource(name, file=file)


def test_a_failure_of_one_ends_nothing_else(hub: ModelHub) -> None:
    hub.repositories[NAMES[1]].is_gated = True
    found = answers(hub, *map(of, NAMES), of("org/None"), of(NAMES[2], "gone.gguf"))
    codes = [answer.get("error", "") for answer in found]
    assert codes == ["", "RepositoryGated", *[""] * 6, "RepositoryNotFound", "VariantNotFound"]
    for name, answer in zip(NAMES, found, strict=False):
        if "error" not in answer:
            assert answer["commit"] == hub.repositories[name].commit
            assert answer["files"] == {"a-Q8_0.gguf": hub.repositories[name].oid("a-Q8_0.gguf")}


def test_a_silence_of_one_ends_nothing_else(hub: ModelHub) -> None:
    hub.api_faults.append(HubFault("status", status=500))  # of whichever comes first
    codes = [answer.get("error", "") for answer in answers(hub, *map(of, NAMES))]
    assert sorted(codes) == [*[""] * 7, "HubUnreachable"]


class DefectiveHub:
    """Answers of a real hub, of which one has no list of files."""

    def __init__(self, hub: Hub, defective: str) -> None:
        self._hub, self._defective = hub, defective

    def revision(self, source: ModelSource) -> Revision:
        found = self._hub.revision(source)
        is_defective = source.repository == self._defective
        return replace(found, files=(None,)) if is_defective else found  # type: ignore[arg-type]  # a defect


def test_a_defect_of_one_ends_nothing_else(hub: ModelHub) -> None:
    lines: list[str] = []
    real = Options(Path("/nowhere"), hub.url).hub
    sources = [*map(of, NAMES), of(NAMES[1], "b-Q4_0.gguf")]
    checking.check(
        lambda: DefectiveHub(real(), NAMES[1]),  # type: ignore[arg-type,return-value]  # a part of it
        sources, lines.append,
    )  # fmt: skip
    found = answers_in("".join(lines), len(sources))
    codes = [answer.get("error", "") for answer in found]
    assert codes == ["", "InternalError", *[""] * 6, "InternalError"]
    assert "AttributeError" in found[1]["message"]


class Counted(dict[str, HubRepository]):
    """Repositories of which four are looked up at the same time, and no more."""

    def __init__(self, repositories: dict[str, HubRepository]) -> None:
        super().__init__(repositories)
        self.barrier = threading.Barrier(checking.AT_ONCE, timeout=DEADLINE_S)
        self.now = self.most = 0
        self.lock = threading.Lock()

    def get(self, name: str, default: Any = None) -> Any:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.barrier.wait()
        with self.lock:
            self.now -= 1
        return super().get(name, default)


def test_a_few_repositories_are_asked_for_side_by_side(hub: ModelHub) -> None:
    """And each once, however many models of it there are."""
    hub.page_entries = 10
    hub.repositories = counted = Counted(hub.repositories)
    found = answers(hub, *map(of, NAMES), *(of(name, "b-Q4_0.gguf") for name in NAMES))
    assert all(answer["files"] for answer in found)
    assert counted.most == checking.AT_ONCE
    assert len(hub.requests_of("api")) == 2 * len(NAMES)


def test_what_has_not_come_by_the_deadline_has_a_line_too(hub: ModelHub) -> None:
    held = threading.Event()

    class Held(dict[str, HubRepository]):
        def get(self, name: str, default: Any = None) -> Any:
            if name == NAMES[0]:
                held.wait(DEADLINE_S)
            return super().get(name, default)

    hub.repositories = Held(hub.repositories)
    try:
        found = answers(hub, of(NAMES[0]), of(NAMES[1]), deadline_s=10)
    finally:
        held.set()
    assert "no answer in time" in found[0]["message"]
    assert "files" in found[1]


def test_lines_fit_through_a_reply_of_the_launcher(hub: ModelHub) -> None:
    shards = [f"s-{number:05}-of-00300.gguf" for number in range(1, 301)]
    hub.repositories[NAMES[0]] = repository(*shards)
    lines: list[str] = []
    sources = [of(NAMES[0], shards[0])] * 2 + [of(NAMES[1])] * (MOST_CHECKED - 2)
    hub.page_entries = 1000
    checking.check(Options(Path("/nowhere"), hub.url).hub, sources, lines.append)
    assert sum(map(len, lines)) <= checking.MOST_BYTES
    found = answers_in("".join(lines), len(sources))
    assert {answer.get("error") for answer in found[2:]} == {None}
    codes = [answer.get("error") for answer in found[:2]]
    assert codes in ([None, "TooLong"], ["TooLong", "TooLong"]), "for one there may be room"


def test_lines_that_are_no_answers() -> None:
    text = 'warning\n{"model": 1, "files": {}}\n[]\n{"model": "0"}\n{"model": 7}\n'
    first, second = answers_in(text, 2)
    assert first["error"] == "NoAnswer"
    assert second == {"model": 1, "files": {}}


# -- in the daemon -------------------------------------------------------------------------------


class OneProcess:
    """The part of `Downloads` that is asked; each answer is the next one of those given."""

    def __init__(self, files: list[str], **answer: Any) -> None:
        self.known = {
            path: Origin("https://hub", f"org/{path}", "main", "c", "", path, "a" * 64, 1.0)
            for path in files
        }
        self.answer = answer
        self.asked: list[int] = []

    async def origins(self, paths: list[str]) -> dict[str, Origin]:
        return {path: self.known[path] for path in paths if path in self.known}

    async def check(self, sources: list[ModelSource]) -> list[dict[str, Any]]:
        self.asked.append(len(sources))
        return [
            {**self.answer, "files": {one.file: ("b" if one.file == "m1" else "a") * 64}}
            for one in sources
        ]


async def test_many_models_are_one_question() -> None:
    files = [f"m{number}" for number in range(MOST_CHECKED + 3)]
    downloads = OneProcess(files, commit="d")
    models = {name.upper(): [name] for name in [*files, "other"]}
    found = await outdated(downloads, models)  # type: ignore[arg-type]  # a part of it
    assert [one.model_id for one in found] == list(models)
    states = {one.model_id: one.state for one in found}
    assert (states.pop("M1"), states.pop("OTHER")) == (NEWER, UNKNOWN)
    assert set(states.values()) == {CURRENT}
    assert downloads.asked == [MOST_CHECKED, 3]


async def test_a_hub_that_answers_about_none_is_asked_no_second_time() -> None:
    files = [f"m{number}" for number in range(MOST_CHECKED + 3)]
    downloads = OneProcess(files, error="HubUnreachable", message="cannot ask")
    found = await outdated(downloads, {name: [name] for name in files})  # type: ignore[arg-type]  # a part of it
    assert {(one.state, one.reason) for one in found} == {(OFFLINE, "cannot ask")}
    assert downloads.asked == [MOST_CHECKED]


async def test_a_model_that_cannot_be_asked_about_ends_no_other_question() -> None:
    class Picky(OneProcess):
        async def check(self, sources: list[ModelSource]) -> list[dict[str, Any]]:
            if any(one.file == "m5" for one in sources):
                raise InvalidInput("cannot use m5", field="source")
            return await super().check(sources)

    files = [f"m{number}" for number in range(MOST_CHECKED)]
    downloads = Picky(files, commit="d")
    found = await outdated(downloads, {name: [name] for name in files})  # type: ignore[arg-type]  # a part of it
    states = {one.model_id: (one.state, one.reason) for one in found}
    assert states.pop("m5") == (REFUSED, "cannot use m5")
    assert states.pop("m1")[0] == NEWER
    assert set(states.values()) == {(CURRENT, "")}
