"""Faults one at a time: `magictl doctor` finds each, and the commands that it prints mend it.

What doctor prints as a command is run as it stands, once, and nothing else: then all is well.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.doctor import Doctor, check_found, check_true, with_doctor
from tests.lab.faults import Fault
from tests.lab.faults_alone import ALONE
from tests.lab.trees import OLDEST, Release, Tree

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def doctor(all_trees: dict[Release, Tree], chat_model: Path) -> Iterator[Doctor]:
    with with_doctor(all_trees[OLDEST], chat_model) as one:
        yield one


@pytest.mark.parametrize("fault", ALONE, ids=lambda fault: f"{fault.finding} {fault.says}")
def test_a_fault_alone(doctor: Doctor, fault: Fault) -> None:
    doctor.sh(fault.plant)
    try:
        found = doctor.findings()
        check_found(found, fault)
        check_true(doctor, found)
        doctor.mend(found, fault.by_hand)
    finally:
        doctor.sh(fault.after)
        doctor.container.wait_until(doctor.is_settled, "servers that have settled")
