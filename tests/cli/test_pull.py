"""`magictl pull` and `magictl download`, against a hub on loopback."""

import json
import os
import pty
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from magid.cli.verbs.pull import bar
from tests.support import ggufs
from tests.support.deadlines import DEADLINE_S
from tests.support.hub import HubFault, HubRepository, ModelHub, running_hub
from tests.support.magictl import MAGICTL, Done, environment, magictl
from tests.support.rest import Parts
from tests.support.running import Running

WEIGHTS = random.Random(6).randbytes(200_000)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelHub]:
    tiny = ggufs.write_chat_model(tmp_path_factory.mktemp("hub") / "tiny-Q8_0.gguf", name="Tiny")
    files: dict[str, bytes | Path] = {"tiny-Q8_0.gguf": tiny.read_bytes(), "tiny-F16.gguf": WEIGHTS}
    with running_hub({"org/Tiny": HubRepository(files)}) as hub:
        yield hub


@pytest.fixture(scope="module")
def daemon(
    parts: Parts, hub: ModelHub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    settings = f"downloads: {{endpoint: '{hub.url}', reserve: 0}}\n"
    running = parts.daemon(tmp_path_factory.mktemp("pull"), settings)
    running.environment["MAGI_LIBRARY_PATH"] = str(running.models)
    profile = "name: Test\ndescription: all of them\nenabled_models: ['*']\n"
    (running.profiles / "test.yaml").write_text(profile)
    with running, running.client:
        yield running


def typed(daemon: Running, line: str, status: int = 0) -> Done:
    done = magictl(*line.split(), url=daemon.url)
    assert done.returncode == status, done
    return done


@pytest.mark.slow
def test_pull_and_show(daemon: Running) -> None:
    listed = typed(daemon, "pull org/Tiny --list").stdout
    assert [line.split()[:2] for line in listed.splitlines()[1:]] == [
        ["F16", "tiny-F16.gguf"], ["Q8_0", "tiny-Q8_0.gguf"],
    ]  # fmt: skip
    lines = typed(daemon, "pull org/Tiny:Q8_0 --wait --json").stdout.splitlines()
    assert json.loads(lines[0])["state"] == "queued"
    assert json.loads(lines[-1])["state"] == "done"
    daemon.wait_for("the model", lambda: bool(daemon.get("/api/models/registry")["models"]))
    (model,) = daemon.get("/api/models/registry")["models"]
    shown = typed(daemon, f"show {model}").stdout
    assert "org/Tiny/tiny-Q8_0.gguf" in shown
    assert "apache-2.0" in shown
    assert "done" in typed(daemon, "download ls").stdout


@pytest.mark.slow
def test_two_commands_lead_to_the_first_token(daemon: Running) -> None:
    """What does not run is started for who types `run`, and not with --no-start."""
    said = typed(daemon, "pull org/Tiny:Q8_0 --wait").stdout
    (model,) = daemon.get("/api/models/registry")["models"]
    assert said.rstrip().endswith(f", as {model}")
    refused = typed(daemon, "run org/Tiny:Q8_0 Hello --no-start", 1)
    assert f"{model} does not run\ntry: magictl start {model}" in refused.stderr
    assert not refused.stdout
    answered = typed(daemon, "run org/Tiny:Q8_0 Hello")
    assert answered.stdout.strip()
    assert answered.stderr == f"{model} does not run: it is started\n"
    assert typed(daemon, "run auto Hello").stderr == ""


@pytest.mark.slow
def test_a_model_that_a_person_has_disabled_stays_so(daemon: Running) -> None:
    (model,) = daemon.get("/api/models/registry")["models"]
    daemon.ask("PUT", f"/api/models/{model}/enabled", {"enabled": False})
    said = typed(daemon, "pull org/Tiny:Q8_0 --wait").stderr
    assert said.endswith(f"it is disabled\ntry: magictl enable {model}\n")
    assert f"try: magictl enable {model}" in typed(daemon, f"run {model} Hello", 4).stderr
    assert daemon.get(f"/api/models/{model}")["enabledOverride"] is False
    daemon.ask("PUT", f"/api/models/{model}/enabled", {"enabled": None})


@pytest.mark.slow
def test_two_commands_do_for_a_model_that_the_profile_leaves_out(daemon: Running) -> None:
    """It starts on demand: no boot starts more than the profile has."""
    (daemon.profiles / "other.yaml").write_text("name: Other\nenabled_models: [other*]\n")
    typed(daemon, "profile activate other")
    (model,) = daemon.get("/api/models/registry")["models"]
    said = typed(daemon, "pull org/Tiny:Q8_0 --wait").stderr
    assert said.endswith(
        f"the profile leaves it out\ntry: magictl run {model}, to use it on demand\n"
    )
    typed(daemon, "run org/Tiny:Q8_0 Hello --no-start", 4)
    assert daemon.get(f"/api/models/{model}")["enabledOverride"] is None
    answered = typed(daemon, "run org/Tiny:Q8_0 Hello")
    assert answered.stdout.strip()
    undo = f"magictl set {model} enabled= start="
    assert answered.stderr == (
        f"{model} was left out: not in the active profile 'other'; "
        "it is enabled now, and starts on demand\n"
        f"try: {undo}, to leave it out again\n"
    )
    known = daemon.get(f"/api/models/{model}")
    assert (known["enabledOverride"], known["start"]) == (True, "on-demand")
    typed(daemon, undo.removeprefix("magictl "))
    known = daemon.get(f"/api/models/{model}")
    assert (known["enabled"], known["enabledOverride"]) == (False, None)
    typed(daemon, "profile activate test")


@pytest.mark.slow
def test_a_model_that_a_person_starts_at_boot_is_not_taken_in(daemon: Running) -> None:
    """It would start at every boot, though the profile leaves it out."""
    (daemon.profiles / "other.yaml").write_text("name: Other\nenabled_models: [other*]\n")
    typed(daemon, "profile activate other")
    (model,) = daemon.get("/api/models/registry")["models"]
    typed(daemon, f"set {model} start=always")
    refused = typed(daemon, f"run {model} Hello", 4)
    known = daemon.get(f"/api/models/{model}")
    assert (known["enabledOverride"], known["start"]) == (None, "always")
    assert f"try: magictl enable {model}" in refused.stderr
    typed(daemon, f"set {model} start=")
    typed(daemon, "profile activate test")


@pytest.mark.slow
def test_ctrl_c_leaves_the_download_running(daemon: Running, hub: ModelHub) -> None:
    hub.faults += [HubFault("stall", 100_000)]
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [MAGICTL, "pull", "org/Tiny:F16"], env=environment(daemon.url, TERM="xterm"),
        stdin=subprocess.DEVNULL, stdout=end, stderr=end,
    )  # fmt: skip
    os.close(end)
    try:
        said = b""
        while b"downloading" not in said:
            said += os.read(terminal, 1024)
        process.send_signal(signal.SIGINT)
        while b"the download goes on" not in said:
            said += os.read(terminal, 1024)
        assert process.wait(DEADLINE_S) == 130
    finally:
        process.kill()
        process.wait(DEADLINE_S)
        os.close(terminal)
    (row,) = (d for d in daemon.get("/api/library/downloads")["downloads"] if d["tag"] == "F16")
    assert row["state"] == "downloading"
    assert "is paused" in typed(daemon, f"download pause {row['id']}").stdout
    assert "is queued" in typed(daemon, f"download resume {row['id']}").stdout
    assert "removed" in typed(daemon, f"download rm {row['id']}").stdout
    typed(daemon, f"download pause {row['id']}", 4)


@pytest.mark.slow
def test_a_failure_says_what_to_do(daemon: Running) -> None:
    done = typed(daemon, "pull org/Tiny:Q2_K --wait", 1)
    assert "cannot pull org/Tiny:Q2_K\nthe repository has no Q2_K; it has" in done.stderr
    assert "should begin with ORG/REPOSITORY" in typed(daemon, "pull nonsense", 1).stderr
    assert "no repository of that name" in typed(daemon, "pull org/None --list", 1).stderr


def test_the_bar() -> None:
    download = {
        "source": "org/Tiny", "state": "downloading", "totalBytes": 4_000_000_000,
        "doneBytes": 1_000_000_000, "bytesPerSecond": 50_000_000.0, "secondsLeft": 60.0,
        "reason": "",
    }  # fmt: skip
    line = bar(download)
    assert line.startswith("[######..................] org/Tiny: downloading 25 % of ")
    assert line.endswith("/s, 1 minute left")
    waiting = {**download, "totalBytes": 0, "state": "queued", "reason": "two\x1b[2J"}
    assert "\x1b" not in bar(waiting)
