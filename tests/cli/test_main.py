"""The command itself: its options, its output, its help."""

import argparse
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from magid import __version__
from magid.cli import completion_grammar, interaction, main
from magid.cli.commands import GROUPS
from magid.cli.habits import HABITS
from tests.support.deadlines import DEADLINE_S
from tests.support.magictl import MAGICTL, environment, magictl
from tests.support.rest import ALPHA, BETA
from tests.support.running import Running

pytestmark = pytest.mark.slow

PACKAGING = Path(__file__).parents[2] / "packaging"


def test_options_of_magictl_itself_may_stand_behind_the_verb(magid: Running) -> None:
    away = "http://127.0.0.1:1"
    for words in (["ps", "-q", "--url", magid.url], [f"--url={magid.url}", "ps", "-q"]):
        assert magictl(*words, url=away).stdout.splitlines() == [ALPHA, BETA]
    coloured = magictl("ps", "--no-color", url=magid.url, FORCE_COLOR="1")
    assert "\x1b" not in coloured.stdout
    assert magictl("ps", "--url", url=magid.url).returncode == 2
    prompt = magictl("route", "--", "--url", url=magid.url)
    assert (prompt.returncode, prompt.stderr) == (0, "")


def test_a_reader_that_goes_away(magid: Running) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as after `magictl ls | head -0`
    with os.fdopen(writing, "w") as output:
        done = subprocess.run(
            [MAGICTL, "ls"], env=environment(magid.url), stdout=output, stderr=subprocess.PIPE,
            timeout=DEADLINE_S, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk(magid: Running) -> None:
    with Path("/dev/full").open("w") as output:
        done = subprocess.run(
            [MAGICTL, "ls"], env=environment(magid.url), stdout=output, stderr=subprocess.PIPE,
            text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "magictl: cannot write to standard output: No space left on device\n"


def every_verb() -> Iterator[completion_grammar.Command]:
    for verb in completion_grammar.read(main.parser()).verbs:
        yield from verb.verbs or (verb,)


def test_every_verb_has_examples_that_can_be_typed() -> None:
    for verb in every_verb():
        most = 6 if verb.name == "import" else 3  # one for each program that it imports from
        assert 2 <= len(verb.examples) <= most, verb.name
        for example in verb.examples:
            words = shlex.split(example.partition(" > ")[0].partition(" < ")[0], comments=False)
            typed = words[words.index("magictl") + 1 :]
            if "|" in typed:
                typed = typed[: typed.index("|")]
            assert main.parser().parse_args(typed).run, example


def test_every_verb_is_in_one_group() -> None:
    names = [verb.name for verb in completion_grammar.read(main.parser()).verbs]
    assert sorted(names) == sorted(name for group in GROUPS.values() for name in group)
    shown = magictl("--help").stdout
    assert all(f"\n{group}:\n" in shown for group in GROUPS)
    assert all(f"\n  {name}" in shown for name in names)


def test_what_people_type_elsewhere_is_no_command_here_and_leads_to_one() -> None:
    names = {name for verb in completion_grammar.read(main.parser()).verbs for name in verb.names}
    assert not names & HABITS.keys()
    commands = [shlex.split(text) for text in HABITS.values() if text.startswith("magictl ")]
    assert {command[1] for command in commands} <= names


@pytest.mark.parametrize("words", [(), ("ls",), ("profile", "edit")])
def test_help_is_what_the_option_prints(words: tuple[str, ...]) -> None:
    assert magictl("help", *words).stdout == magictl(*words, "--help").stdout


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 30),
        ("0.5", 0.5),
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("200ms", 0.2),
        ("1d", 86_400),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert interaction.seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "-1", "5 m", "m", "5x", "5m3", "nan", "inf"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="should be a time above 0"):
        interaction.seconds(text)


def test_config_is_what_magid_checks(tmp_path: Path) -> None:
    file = tmp_path / "magid.yaml"
    file.write_text("gateway: {queue_limit: 7}\n")
    lines = magictl("config", "gateway", MAGI_CONFIG=str(file)).stdout.splitlines()
    assert "gateway.queue_limit = 7" in lines[1]
    assert lines[1].endswith(f"# {file}:1")
    told = json.loads(magictl("config", "bind", "--json", MAGI_CONFIG=str(file)).stdout)
    assert told == {"bind": {"value": ["127.0.0.1:8000"], "source": "default"}}
    file.write_text("gatway: 1\n")
    done = magictl("config", MAGI_CONFIG=str(file))
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "try: man 5 magid.yaml")


def test_help_has_the_examples() -> None:
    done = magictl("profile", "edit", "--help")
    assert "examples:\n  magictl profile edit production\n" in done.stdout


@pytest.mark.parametrize(
    ("settings", "is_coloured"),
    [
        ({}, False), ({"FORCE_COLOR": "1"}, True), ({"CLICOLOR_FORCE": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)  # fmt: skip
def test_colours_off_a_terminal(
    magid: Running, settings: dict[str, str], is_coloured: bool
) -> None:
    assert ("\x1b[" in magictl("ps", url=magid.url, **settings).stdout) is is_coloured
    assert "\x1b[" not in magictl("--no-color", "ps", url=magid.url, **settings).stdout


def test_nothing_takes_longer_than_the_request_timeout(free_port: Callable[[], int]) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = magictl("--request-timeout", "0.2", "ls", "-q", url=url)
    assert (done.returncode, done.stdout) == (124, "")
    assert done.stderr.splitlines() == [
        "magictl: cannot ls",
        "no answer in the time given",
        "try: a longer --request-timeout, or magictl doctor",
    ]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_what_the_package_installs(shell: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, PACKAGING / "completions.py", tmp_path], check=True)
    installed = {path.read_text() for path in tmp_path.rglob("*magictl*") if path.is_file()}
    assert magictl("completion", shell).stdout in installed


@pytest.mark.parametrize("words", [["version"], ["--version"]])
def test_version(words: list[str]) -> None:
    done = magictl(*words, url="http://127.0.0.1:1")  # nobody is there
    assert (done.returncode, done.stdout) == (0, f"magictl {__version__}\n")


def test_it_starts_without_the_daemons_code() -> None:
    code = "import sys, magid.cli.main; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"sanic", "pydantic", "asyncio", "yaml", "psutil", "inspect", "logging"}
    ours = {".".join(name.split(".")[:2]) for name in loaded if name.startswith("magid")}
    assert ours == {"magid", "magid.cli", "magid.wording"}
