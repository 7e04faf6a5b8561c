"""docs/recipes.md: a fresh machine gets magid's package, and moves from Debian 12 to 13 later."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import pytest

from tests.lab import laptop, next_release, person
from tests.lab.conftest import say
from tests.lab.container import Container, booted
from tests.lab.trees import ROOT
from tests.support import transcript
from tests.support.transcript import Step

pytestmark = pytest.mark.slow

RECIPE = "A new release of Debian"
UPGRADE, REBOOT = "full-upgrade", "systemctl reboot"
FIRST_DAY = "From the installation to the first answer on another machine"
MODELS = ("Alpha-1B-Q4_K_M.gguf", "Beta-8B-Q4_K_M.gguf")
SERVICES = ("magid.service", "magi-launcher.service")
MOST_COMMANDS = 12
# Of magid and of systemd; a scan that a restart interrupts is no failed start.
FAILED_START = ("magid: cannot ", "Failed to start ", "magid.service: Failed with result ")


@pytest.fixture
def machine(package: Path, chat_model: Path) -> Iterator[Container]:
    with booted(next_release.build(say)) as container:
        container.write(f"/root/{package.name}", package.read_bytes())
        for name in MODELS:
            container.write(f"/root/{name}", chat_model.read_bytes())
        container.run(["apt-get", "-qq", "update"])
        laptop.set_up(container)
        yield container


@dataclass
class Machine:
    """Types the recipe, and looks which processes there are around the upgrade."""

    container: Container
    models: list[dict[str, int]] = field(default_factory=list)
    pythons: list[set[str]] = field(default_factory=list)

    def typed(self, script: list[Step]) -> list[tuple[str, int]]:
        results: list[tuple[str, int]] = []
        for command, steps in groupby(script, _turning_point):
            if command == REBOOT:
                self.container.reboot()
                results += [("", 0) for _ in steps]
                continue
            if command == UPGRADE:
                self._look()
            results += person.typed_at_once(self.container, list(steps))
            if command == UPGRADE:
                self._look()
        return results

    def _look(self) -> None:
        ports = ("8080", "8081")
        self.models.append({p: self.container.pid_of(f"llama-server@{p}.service") for p in ports})
        pids = [self.container.pid_of(unit) for unit in SERVICES]
        exes = (self.container.run(["readlink", f"/proc/{pid}/exe"]).stdout for pid in pids)
        self.pythons.append({exe.strip() for exe in exes})


def _turning_point(step: Step) -> str:
    return next((part for part in (UPGRADE, REBOOT) if part in step.command), "")


def test_from_the_first_day_to_the_next_release(machine: Container) -> None:
    """In few commands, and with no start of magid that fails; then through an upgrade."""
    document = ROOT / "docs/recipes.md"
    seen = Machine(machine)
    transcript.check_document(document, seen.typed, FIRST_DAY)
    assert len(transcript.steps(transcript.sections(document.read_text())[FIRST_DAY])) <= (
        MOST_COMMANDS
    )
    said = [entry["MESSAGE"] for entry in machine.journal("magid.service")]
    assert [line for line in said if line.startswith(FAILED_START)] == []

    transcript.check_document(document, seen.typed, RECIPE)
    before, after = seen.models
    assert before == after
    assert 0 not in before.values()
    old, new = (f"/usr/bin/python{one.python}" for one in (next_release.BEFORE, next_release.AFTER))
    assert seen.pythons == [{old}, {new}]
