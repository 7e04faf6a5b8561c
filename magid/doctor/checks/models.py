"""Model folders and files: there, and readable by those who have to read them."""

import shlex
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from magid.doctor.facts import Facts, Finding, Folder, NotCollected, Severity, known

_PRIVATE: Final = ("/tmp", "/var/tmp")  # magid's service has its own of these
_READ_BY: Final = "servers run as users of their own, in the group magi-models"
_REFUSED: Final = "Permission denied"


def folders(facts: Facts) -> Iterator[Finding]:
    """The user magi can list every model folder."""
    for folder in known(facts.folders):
        yield from _of_folder(folder)


def _of_folder(folder: Folder) -> Iterator[Finding]:
    where = PurePosixPath(folder.path)
    if any(where.is_relative_to(private) for private in _PRIVATE):
        yield Finding(
            f"magid cannot see the model folder {where}",
            "its service has a /tmp and a /var/tmp of its own (PrivateTmp=)",
            do="move the models, for example to /var/lib/magi/models, and name that in model_paths",
        )
    elif folder.mount:
        point = shlex.quote(folder.mount)
        yield Finding(
            f"{folder.mount} is not mounted, and the model folder {where} is there",
            "/etc/fstab has it; a network file system may have been down at boot",
            run=(f"mount {point}", "magictl rescan"),
        )
    elif folder.late:
        yield Finding(
            f"the model folder {where} does not answer",
            "its file system hangs; models of it that run go on, and none can be started",
            do=f"see to the mount above {where}: `findmnt`, `dmesg`; where its server is gone for "
            "good, `umount -f` it; magid takes the folder up again by itself",
        )
    elif folder.missing:
        yield Finding(
            f"there is no model folder {where}",
            "model_paths in /etc/magi/magid.yaml names it",
            run=(f"install -d -m 2775 -g magi-models {shlex.quote(folder.path)}", "magictl rescan"),
        )
    for path, why in folder.refused:
        yield _not_entered(folder, path, why)


def _not_entered(folder: Folder, path: str, why: str) -> Finding:
    within = PurePosixPath(path).is_relative_to(folder.path)
    verb, bits = ("list", "o+rx") if within else ("enter", "o+x")
    right = (f"chmod {bits} {shlex.quote(path)}", "magictl rescan") if why == _REFUSED else ()
    return Finding(
        f"magid cannot {verb} {path}: {why}",
        f"it runs as the user magi, and the model folder {folder.path} is "
        + ("or contains it" if within else "below it"),
        do="" if right else f"see to {path}: `ls -ld {shlex.quote(path)}`, `dmesg`",
        run=right,
    )


def files(facts: Facts) -> Iterator[Finding]:
    """Every model file can be read within the sandbox of a server."""
    found = known(facts.files)
    for file in found:
        if file.refused:
            yield Finding(
                f"{file.path} cannot be run",
                file.refused,
                Severity.WARNING,
                do="put the file itself into a model folder, or add the folder that it is in to "
                "model_paths in /etc/magi/magid.yaml",
            )
    trial = known(facts.trial)
    for path, why in (trial.files or {}).items():
        if why == _REFUSED:
            yield Finding(
                f"a server cannot read {path}",
                f"{why}; {_READ_BY}",
                run=(f"chmod o+r {shlex.quote(path)}", "magictl rescan", "magictl apply"),
            )
        elif why:
            yield Finding(f"a server cannot read {path}", why, do="rename or replace the file")


def broken(facts: Facts) -> Iterator[Finding]:
    """Every model file is one that llama.cpp could load."""
    files = () if isinstance(facts.files, NotCollected) else facts.files
    told = {file.path for file in files if file.refused}
    for path, why in known(facts.daemon).broken:
        name = shlex.quote(path)
        if why.startswith("cannot be read"):
            # If the trial could run, it has reported this already, and in more detail.
            if isinstance(facts.trial, NotCollected):
                yield Finding(f"magid cannot read {path}", why, run=(f"chmod o+rX {name}",))
            continue
        if path in told:
            continue
        what, _, remedy = why.partition("; ")
        if remedy:
            yield Finding(f"{path} is not used: it {what}", severity=Severity.WARNING, do=remedy)
            continue
        yield Finding(
            f"{path} is broken: it {why}",
            "most often a download that was interrupted",
            Severity.WARNING,
            do="download it again; until then, set it aside:",
            run=(f"mv {name} {name}.broken", "magictl rescan"),
        )
