"""`python -m tests.rules.vendor FOLDER`: joins the page's libraries into one file, from npm's packages in the folder.

A browser would fetch five files. Each is wrapped into a function, because their short names collide; only its imports and
exports are reworded for that. VENDORED.json keeps what was reworded. Each new text is unique, so a test can put it back.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.rules.documents import ROOT

VENDOR = ROOT / "src" / "promptreel" / "web" / "vendor"
JOINED = "libraries.js"
_EXPORTS = re.compile(r"export\{([^}]*)\}(;?)(?!from)")
_IMPORT = re.compile(r'import\{([^}]*)\}from"([^"]+)";')
_PASSED_ON = re.compile(r'export\{([^}]*)\}from"([^"]+)";')
_SOURCE_MAP = re.compile(r"//# sourceMappingURL=\S+\n?")
_NAMES = {"preact": "preact", "preact/hooks": "hooks", "@preact/signals-core": "signalsCore"}


@dataclass(frozen=True)
class Library:
    """A file of a package on npm. `name`: the variable that holds what it exports."""

    name: str
    package: str
    version: str
    licence: str
    path: str

    @property
    def tarball(self) -> str:
        return f"{self.package.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    @property
    def heading(self) -> str:
        return f"/*! {self.package} {self.version}, {self.licence}: {self.path} */"


LIBRARIES = (
    Library("preact", "preact", "11.2.0", "MIT", "dist/preact.mjs"),
    Library("hooks", "preact", "11.2.0", "MIT", "hooks/dist/hooks.mjs"),
    Library("htm", "htm", "3.1.1", "Apache-2.0", "dist/htm.mjs"),
    Library("signalsCore", "@preact/signals-core", "1.14.5", "MIT", "dist/signals-core.mjs"),
    Library("signals", "@preact/signals", "2.11.4", "MIT", "dist/signals.mjs"),
)
_END = """export const html = htm.bind(preact.h);
export const { render, Fragment } = preact;
export const { useEffect, useLayoutEffect, useRef, useState } = hooks;
export const { batch, computed, effect, signal, untracked, useSignal, useComputed, useSignalEffect } = signals;
"""


def reword(text: str) -> list[list[str]]:
    """What is replaced in a published file, and by what."""
    passed_on = ""
    changes = [[found[0], "/* a map */"] for found in _SOURCE_MAP.finditer(text)]
    changes += [[found[0], f"const{{{_turn(found[1])}}}={_NAMES[found[2]]};"] for found in _IMPORT.finditer(text)]
    for found in _PASSED_ON.finditer(text):
        changes.append([found[0], f"/* passes on {found[1]} */"])
        passed_on += "".join(f"{name}:{_NAMES[found[2]]}.{name}," for name in found[1].split(","))
    for found in _EXPORTS.finditer(_PASSED_ON.sub("", text)):
        names = ",".join(f"{new or old}:{old}" for old, _, new in (each.partition(" as ") for each in found[1].split(",")))
        changes.append([found[0], f"return{{{passed_on}{names}}};"])
    if "export default" in text:
        changes.append(["export default", "return/* the default */"])
    return changes


def _turn(names: str) -> str:
    return names.replace(" as ", ":")


def join(folder: Path) -> None:
    parts, notes = [], []
    for library in LIBRARIES:
        with tarfile.open(folder / library.tarball) as package:
            published = _read(package, library.path)
            licence = _read(package, "LICENSE")
        text, changes = published, reword(published)
        for old, new in changes:
            assert text.count(old) == 1, (library, old)
            text = text.replace(old, new)
        parts.append(f"{library.heading}\nconst {library.name}=(()=>{{{text}\n}})();\n")
        notes.append(_note(library, folder, published, changes))
        (VENDOR / f"LICENSE.{library.package.removeprefix('@').replace('/', '-')}.txt").write_text(licence)
    joined = "".join(parts) + _END
    (VENDOR / JOINED).write_text(joined)
    sums = {path.name: _sha256(path.read_bytes()) for path in sorted(VENDOR.iterdir()) if path.name != "VENDORED.json"}
    (VENDOR / "VENDORED.json").write_text(json.dumps({"libraries": notes, "sha256": sums}, indent=2) + "\n")


def _note(library: Library, folder: Path, published: str, changes: list[list[str]]) -> dict[str, Any]:
    return {
        "name": library.package,
        "version": library.version,
        "licence": library.licence,
        "source": f"https://www.npmjs.com/package/{library.package}",
        "package_sha256": _sha256((folder / library.tarball).read_bytes()),
        "file": library.path,
        "sha256": _sha256(published.encode()),
        "changes": changes,
    }


def _read(package: tarfile.TarFile, path: str) -> str:
    file = package.extractfile(f"package/{path}")
    assert file is not None
    return file.read().decode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    join(Path(sys.argv[1]))
