"""magictl as a person types it, in a booted machine: tests/transcripts, and the documents."""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from magid.cli.main import parser
from tests.lab.container import Container, booted
from tests.lab.launching import install_launcher
from tests.lab.serving import UNITS, Daemon
from tests.lab.trees import RELEASES, Release, Tree
from tests.support import ggufs, original, transcript
from tests.support.deadlines import SET_UP_S
from tests.support.transcript import Step

pytestmark = pytest.mark.slow

PERSON = (Path(__file__).parent / "inside/person.py").read_text()
PROGRAM = "/srv/person.py"
ROOT = Path(__file__).parents[2]
SETTINGS = """\
model_paths: [/var/lib/magi/models]
profile: everything
server_defaults: {n_threads: 1, parallel: 1, ctx_size: 512}
"""
PROFILES = {
    "everything": "name: Everything\ndescription: all models\nenabled_models: ['*']\n",
    "small": "name: Small\ndescription: those that are fast\nenabled_models: ['tier:fast']\n",
}
EDITOR = """\
#!/bin/sh
sed -i "$CHANGE" "$1"
"""


@pytest.fixture(scope="module")
def machine(
    all_trees: dict[Release, Tree], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    folder = tmp_path_factory.mktemp("transcripts")
    plain = ggufs.write_chat_model(folder / "Plain-F16.gguf", quantization="F16")
    thinker = ggufs.write_chat_model(
        folder / "Thinker-F16.gguf", template=ggufs.THINKING_TEMPLATE,
        answer=ggufs.THINKING_ANSWER, quantization="F16",
    )  # fmt: skip
    with booted(all_trees[RELEASES[0]]) as container:
        install_launcher(container, plain)
        container.run(["rm", "-r", "/models"])
        container.write("/etc/magi/magid.yaml", SETTINGS)
        for name, text in PROFILES.items():
            container.write(f"/etc/magi/profiles/{name}.yaml", text)
        for name, model in (("Qwen3-4B-Q4_K_M", plain), ("Gemma-3-12B-Q4_K_M", plain),
                            ("DeepSeek-R1-8B-Q4_K_M", thinker)):  # fmt: skip
            container.write(f"/var/lib/magi/models/{name}.gguf", model.read_bytes())
        for path, content in original.PROGRAM.items():
            container.write(f"/opt/synapse-engine/{path}", content)
        container.write(PROGRAM, PERSON)
        container.write("/usr/local/bin/my-editor", EDITOR, 0o755)
        container.systemctl("enable", *UNITS)
        container.systemctl("start", *UNITS)
        daemon = Daemon(container)
        container.wait_until(daemon.is_ready, "readiness")
        daemon.client.close()
        yield container


def typed(container: Container, script: list[Step], *, terminal: bool) -> list[tuple[str, int]]:
    wanted = [{"command": s.command, "keys": s.keys, "terminal": terminal} for s in script]
    done = container.run(["python3", "-I", PROGRAM], input=json.dumps(wanted), timeout=SET_UP_S)
    return [(output, status) for output, status in json.loads(done.stdout)]


def forget_usage(machine: Container) -> None:
    """What was asked in other transcripts."""
    machine.systemctl("stop", "magid.service")
    machine.run(["rm", "-rf", "/var/lib/magi/usage"])
    machine.systemctl("start", "magid.service")
    machine.run(["magictl", "ls"])  # which waits for the first scan


@pytest.mark.parametrize(
    "path", sorted(transcript.FOLDER.glob("*.txt")), ids=lambda path: str(path.stem)
)
def test_it_goes_as_before(machine: Container, path: Path) -> None:
    """Those called *-terminal are typed on one. Each leaves the machine as it was."""
    is_on_terminal = path.stem.endswith("-terminal")
    if "magictl usage" in path.read_text():
        forget_usage(machine)
    transcript.check(path, lambda script: typed(machine, script, terminal=is_on_terminal))


def verbs(parser: argparse.ArgumentParser, before: str = "") -> Iterator[str]:
    """All of them, `profile ls` too, by their own names."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            own = {id(sub): name for name, sub in reversed(action.choices.items())}  # no aliases
            for name, sub in action.choices.items():
                if own[id(sub)] == name:
                    yield from list(verbs(sub, f"{before}{name} ")) or [f"{before}{name}"]


@pytest.mark.parametrize("where", ["on a terminal", "elsewhere"])
def test_every_verb_is_typed(where: str) -> None:
    typed_in = [
        step.command
        for path in transcript.FOLDER.glob("*.txt")
        if path.stem.endswith("-terminal") is (where == "on a terminal")
        for step in transcript.steps(path.read_text())
    ]
    known = list(verbs(parser()))
    assert len(known) > 30
    call = r"\bmagictl( --?[\w-]+( \S+)?)*? {}\b"  # with options before the verb
    missing = [v for v in known if not any(re.search(call.format(v), c) for c in typed_in)]
    assert missing == []


def test_a_followed_log_goes_on_when_magid_is_back(machine: Container) -> None:
    """Each line once, whoever was restarted meanwhile."""
    model = "qwen3_4p0b_q4km_fast"
    log = ["magictl", "logs", model, "--grep", "listening on"]
    before = len(machine.run(log).stdout.splitlines())
    assert before
    machine.run(["systemd-run", "--quiet", "--collect", "--unit=follow", *log, "--follow"])

    def lines() -> int:
        output = machine.run(["journalctl", "--unit=follow", "--output=cat"]).stdout
        return output.count("listening on http")

    machine.wait_until(lambda: lines() == before, "the lines so far")
    machine.systemctl("restart", "magid.service")
    machine.run(["magictl", "restart", model])
    machine.wait_until(lambda: lines() > before, "the new line")
    machine.systemctl("stop", "follow.service")
    assert lines() == before + 1


@pytest.mark.parametrize(
    ("name", "without"),
    # The first model is for a machine without any, which test_package_life.py has.
    [("README.md", "First models"), ("docs/operating.md", None)],
)
def test_what_the_documents_show_is_true(
    machine: Container, name: str, without: str | None
) -> None:
    transcript.check_document(
        ROOT / name, lambda s: typed(machine, s, terminal=False), without=without
    )


def test_what_the_document_on_access_shows_is_true(machine: Container) -> None:
    path = ROOT / "docs/access.md"
    try:
        transcript.check_document(path, lambda s: typed(machine, s, terminal=False))
    finally:
        machine.run(["rm", "-f", "/var/lib/magi/tokens.json"])
        machine.systemctl("reload", "magid")
