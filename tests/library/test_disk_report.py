"""Which files are whose, and what they take."""

import os
from pathlib import Path

from magid.library.disk_report import DiskReport, files_of_models, report
from magid.library.disk_usage import RootUsage, usage_of
from tests.support import ggufs
from tests.support.mounts import mounted
from tests.support.scanning import scan

MIB = 1 << 20


def padded(path: Path, mib: int) -> Path:
    """A file with so much more behind its content, really on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(os.urandom(mib * MIB))
    return path


def look(folder: Path) -> DiskReport:
    models = {model.stem: model for model in scan(folder).models}
    return report([usage_of(str(folder), (), files_of_models(models))], models)


def test_whose_each_file_is(tmp_path: Path) -> None:
    for quantization in ("Q4_0", "Q8_0"):
        padded(ggufs.write_chat_model(tmp_path / f"Eye-{quantization}.gguf",
                                      quantization=quantization), 2)  # fmt: skip
    projector = padded(ggufs.write_mmproj(tmp_path / "mmproj-Eye.gguf"), 3)
    (tmp_path / "again.gguf.old").hardlink_to(projector)
    parts = [padded(tmp_path / ".downloads/0a/0.part", 1), padded(tmp_path / "b.gguf.aria2", 2),
             padded(tmp_path / "blobs/0a.1b.incomplete", 3)]  # fmt: skip
    lost = padded(tmp_path / "deep/notes.bin", 4)
    (tmp_path / "small.txt").write_bytes(b"x" * 5000)
    (tmp_path / "link").symlink_to("/usr")
    found = look(tmp_path)
    both = sum(path.stat().st_blocks * 512 for path in tmp_path.glob("Eye-*.gguf"))
    (root,) = found.roots
    shared = projector.stat().st_blocks * 512
    assert {one.shared for one in found.models} == {shared}
    assert sum(one.size for one in found.models) == both + 2 * shared
    assert [one.path for one in found.unfinished] == [str(path) for path in reversed(parts)]
    assert [one.path for one in found.others] == [str(lost)]
    assert 5000 <= found.rest < MIB
    space = os.statvfs(tmp_path)
    assert root.total == space.f_blocks * space.f_frsize
    assert (root.problem, root.free > 0) == ("", True)


def test_a_small_model_has_its_bytes(tmp_path: Path) -> None:
    """Whatever its size, and where it has other names; each file counts once, and in one place."""
    tiny = ggufs.write_chat_model(tmp_path / "Tiny-Q8_0.gguf", quantization="Q8_0")
    eye = ggufs.write_chat_model(tmp_path / "Eye-Q8_0.gguf", quantization="Q8_0")
    projector = ggufs.write_mmproj(tmp_path / "mmproj-Eye.gguf")
    (tmp_path / "again").hardlink_to(tiny)
    (tmp_path / "small.txt").write_bytes(b"x" * 5000)
    padded(tmp_path / "notes.bin", 1)
    found = look(tmp_path)
    taken = {path: path.stat().st_blocks * 512 for path in tmp_path.iterdir()}
    assert max(taken[tiny], taken[eye], taken[projector]) < MIB
    assert {one.model_id: one.size for one in found.models} == {
        "Tiny-Q8_0": taken[tiny], "Eye-Q8_0": taken[eye] + taken[projector],
    }  # fmt: skip
    assert found.rest == taken[tmp_path / "small.txt"]
    assert [one.path for one in found.others] == [str(tmp_path / "notes.bin")]


def test_a_folder_within_another_one_counts_there_alone(tmp_path: Path) -> None:
    inner = padded(tmp_path / "inner/x.bin", 1).parent
    assert [Path(one.path).name for one in usage_of(str(tmp_path), ()).files] == ["x.bin"]
    assert usage_of(str(tmp_path), [str(inner)]).files == ()
    missing = usage_of(f"{tmp_path}/none", ())
    assert missing == RootUsage(
        f"{tmp_path}/none", problem="cannot be read: No such file or directory"
    )


def test_a_folder_that_hangs(tmp_path: Path) -> None:
    net = tmp_path / "net"
    net.mkdir()
    with mounted(net) as mount:
        mount.hang()
        assert usage_of(str(net), (), late_s=0.5).problem == "has not answered for 0.5 s"
        mount.thaw()
        assert usage_of(str(net), ()).problem == ""
