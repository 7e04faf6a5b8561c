"""Memory of GPUs as amdgpu shows it, in a sysfs of the test's own; what needs no descriptor."""

import os
import resource
from pathlib import Path

from magid.host import usage
from magid.host.usage import GpuMemory, ServerFigures, memory


def sysfs(folder: Path) -> Path:
    (folder / "class").mkdir()
    return folder / "class"


def card(cards: Path, name: str, address: str, **files: str) -> None:
    device = cards.parent / "devices" / address
    device.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (device / file).write_text(text)
    (cards / name).mkdir()
    (cards / name / "device").symlink_to(device)


def test_each_card_by_its_address_on_the_bus(tmp_path: Path) -> None:
    cards = sysfs(tmp_path)
    card(cards, "card1", "0000:03:00.0", mem_info_vram_total="200\n", mem_info_vram_used="50\n")
    card(cards, "card0", "0000:83:00.0", mem_info_vram_total="100\n", mem_info_vram_used="0\n")
    card(cards, "card0-HDMI-A-1", "0000:83:00.0")
    assert memory(cards) == [
        GpuMemory("0000:03:00.0", 200, 50),
        GpuMemory("0000:83:00.0", 100, 0),
    ]


def test_cards_whose_driver_reports_no_memory(tmp_path: Path) -> None:
    cards = sysfs(tmp_path)
    card(cards, "card0", "0000:01:00.0")
    card(cards, "card1", "0000:02:00.0", mem_info_vram_total="what?", mem_info_vram_used="1")
    card(cards, "card2", "0000:03:00.0", mem_info_vram_total="1")
    assert memory(cards) == []


def test_a_machine_without_graphics(tmp_path: Path) -> None:
    assert memory(tmp_path / "none") == []


def test_figures_where_clients_have_used_up_the_descriptors() -> None:
    total = usage.machine_memory()["total"]
    usage.process_figures(os.getpid())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        machine, server = usage.machine_memory(), usage.process_figures(os.getpid())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert machine["total"] == total
    assert 0 < machine["available"] < total
    assert server == usage.ServerFigures()


def test_what_a_control_group_uses(tmp_path: Path) -> None:
    group = tmp_path / "magi.slice" / "one.service"
    group.mkdir(parents=True)
    (group / "cpu.stat").write_text("usage_usec 1500000\nuser_usec 1\n")
    (group / "memory.current").write_text("4096\n")
    (group / "memory.stat").write_text("anon 1024\nfile 3072\n")
    name = "/magi.slice/one.service"
    assert usage.group_figures(name, 1, tmp_path) == ServerFigures(4096, 1.5)
    assert usage.held_in_group(name, tmp_path) == 1024
    (group / "memory.current").unlink()
    own = usage.group_figures(name, os.getpid(), tmp_path)
    assert own is not None
    assert own.cpu_seconds == 1.5
    assert own.memory_bytes is not None, "what the process shows, without the memory controller"
    (group / "cpu.stat").write_text("nr_periods 0\n")
    assert usage.group_figures(name, 1, tmp_path) is None
    assert usage.group_figures("/none", 1, tmp_path) is None
    assert usage.held_in_group("/none", tmp_path) is None


def test_what_a_process_holds() -> None:
    held = usage.held_by_process(os.getpid())
    assert held is not None
    assert held > 1_000_000
    assert usage.held_by_process(2**22 + 1) is None
