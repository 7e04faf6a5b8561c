"""What the package is made of, as CycloneDX 1.6 JSON on stdout: for scanners of known holes.

Made of the locks alone, so that two builds are equal: no time, and a serial number that follows
from the content. The hashes are those of all files that the lock accepts for a package.
"""

import base64
import json
import re
import sys
import uuid
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import vendor  # noqa: E402  # needs the line above

from magid import __version__  # noqa: E402  # likewise: vendor has made it possible


def document() -> dict[str, Any]:
    components = [component(entry) for entry in vendored()]
    components += bundled(json.loads(PAGE_LOCK.read_text())["packages"])
    own = {
        "type": "application",
        "bom-ref": "magid",
        "name": "magid",
        "version": __version__,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }
    content: dict[str, Any] = {
        "metadata": {"component": own},
        "components": components,
        "dependencies": [{"ref": "magid", "dependsOn": [c["bom-ref"] for c in components]}],
    }
    number = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True))
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{number}",
        "version": 1,
        **content,
    }


def vendored() -> list[Any]:
    """The locked packages of all Pythons, each once, by name."""
    found = {e.lines: e for python in vendor.PYTHONS for e in vendor.wanted(python)}
    return sorted(found.values(), key=lambda entry: str(entry.lines))


def component(entry: Any) -> dict[str, Any]:
    version = re.match(r"[^=]+==([^\s;\\]+)", entry.lines)
    hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})", entry.lines)
    if version is None or not hashes:
        raise SystemExit(f"cannot describe {entry.name}: its lock has no version or no hash")
    purl = f"pkg:pypi/{entry.name}@{version[1]}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": entry.name,
        "version": version[1],
        "purl": purl,
        "hashes": [{"alg": "SHA-256", "content": text} for text in sorted(hashes)],
    }


PAGE_LOCK = vendor.ROOT / "magid/webui/package-lock.json"
BUNDLER = re.compile(r"(?:@esbuild/.+|esbuild)")  # builds the page, and is no part of it


def bundled(packages: dict[str, Any]) -> list[dict[str, Any]]:
    """The packages of npm that the page consists of, by name, from the lock's entries."""
    found = []
    for path, entry in sorted(packages.items()):
        name = path.rpartition("node_modules/")[2]
        if not name or entry.get("dev") or BUNDLER.fullmatch(name):
            continue
        algorithm, _, digest = entry["integrity"].partition("-")
        purl = f"pkg:npm/{name.replace('@', '%40')}@{entry['version']}"
        found.append({
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": entry["version"],
            "purl": purl,
            "hashes": [{"alg": f"SHA-{algorithm.removeprefix('sha')}",
                        "content": base64.b64decode(digest).hex()}],
        })  # fmt: skip
    return found


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=2, sort_keys=True)
    sys.stdout.write("\n")
