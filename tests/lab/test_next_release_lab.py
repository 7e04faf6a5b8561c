"""docs/recipes.md: a machine with magid moves from Debian 12 to 13, with apt."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import pytest

from tests.lab import next_release, person
from tests.lab.conftest import say
from tests.lab.container import Container, booted
from tests.lab.trees import ROOT
from tests.support import transcript
from tests.support.deadlines import SET_UP_S
from tests.support.transcript import Step

pytestmark = pytest.mark.slow

RECIPE = "A new release of Debian"
UPGRADE, REBOOT = "full-upgrade", "systemctl reboot"
MODELS = ("/models/Alpha-1B-Q4_K_M.gguf", "/models/Beta-8B-Q4_K_M.gguf")
SERVICES = ("magid.service", "magi-launcher.service")
FIRST_STEPS = """\
cd /root
exec 2>&1
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -qq -y install ./magi_*.deb
magictl rescan
magictl apply
magictl wait alpha
magictl wait beta
"""


@pytest.fixture
def machine(package: Path, chat_model: Path) -> Iterator[Container]:
    with booted(next_release.build(say)) as container:
        container.write(f"/root/{package.name}", package.read_bytes())
        for path in MODELS:
            container.write(path, chat_model.read_bytes())
        container.run(["sh", "-e", "-c", FIRST_STEPS], timeout=SET_UP_S)
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


def test_models_run_through_the_upgrade_and_after_it(machine: Container) -> None:
    seen = Machine(machine)
    transcript.check_document(ROOT / "docs/recipes.md", seen.typed, RECIPE)
    before, after = seen.models
    assert before == after
    assert 0 not in before.values()
    old, new = (f"/usr/bin/python{one.python}" for one in (next_release.BEFORE, next_release.AFTER))
    assert seen.pythons == [{old}, {new}]
