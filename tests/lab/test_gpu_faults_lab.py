"""Faults of GPUs, one at a time: `magictl doctor` finds each by its name, and its remedy helps.

Where it prints commands that can mend it here they are run; else what a person would do is done.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.container import booted
from tests.lab.doctor import Doctor, check_found
from tests.lab.faults import Fault
from tests.lab.gpu_faults import GPU_FAULTS, PROGRAM, SOUND, WRAPPER
from tests.lab.serving import SETTINGS, installed_in
from tests.lab.trees import OLDEST, Release, Tree

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def doctor(all_trees: dict[Release, Tree], chat_model: Path) -> Iterator[Doctor]:
    with booted(all_trees[OLDEST]) as container:
        container.write(PROGRAM, WRAPPER.format(program=OLDEST.llama_server), 0o755)
        container.run(["sh", "-e", "-c", SOUND])
        daemon = installed_in(container, chat_model, f"{SETTINGS}llama_server_path: {PROGRAM}\n")
        daemon.wait_ready()
        yield Doctor(daemon)
        daemon.client.close()


@pytest.mark.parametrize("fault", GPU_FAULTS, ids=lambda fault: fault.finding)
def test_a_fault_of_a_gpu(doctor: Doctor, fault: Fault) -> None:
    doctor.sh(fault.plant)
    try:
        doctor.container.wait_until(doctor.is_settled, "servers that have settled")
        found = doctor.findings()
        check_found(found, fault)
        doctor.mend(found, fault.by_hand)
    finally:
        doctor.sh(fault.after)
        doctor.container.wait_until(doctor.is_settled, "servers that have settled")
