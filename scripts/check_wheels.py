"""Checks what scripts/wheel built; prints names, sizes and tags: COMMIT WHEEL PORTABLE_WHEEL SDIST."""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from pathlib import Path


def main(commit: str, wheel: Path, portable: Path, sdist: Path) -> None:
    check_wheel(wheel, commit, carries_libgomp=False)
    check_wheel(portable, commit, carries_libgomp=True)
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    # The tests have shims in C; in the package itself, C is generated.
    stray = r"\.(so|pyc|orig|rej)$|__pycache__|^[^/]+/fasttail/.*\.c$"
    check(sdist, [name for name in names if re.search(stray, name)], "holds")
    check(sdist, [] if any(name.endswith("/LICENSE") for name in names) else ["LICENSE"], "lacks")
    print(f"{sdist.name}: {sdist.stat().st_size} bytes")


def check_wheel(path: Path, commit: str, *, carries_libgomp: bool) -> None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith("/WHEEL"))
        tags = re.findall(r"^Tag: (.*)", archive.read(metadata).decode(), re.MULTILINE)
        stamped = archive.read("fasttail/_build_info.py").decode()
    check(path, [] if commit in stamped else [commit], "does not name")
    stray = [name for name in names if re.search(r"\.(c|h|pxd|pyx|pyc)$|^(?!fasttail[/.-])", name)]
    check(path, stray, "holds")
    check(path, [] if any(name.endswith("/LICENSE") for name in names) else ["LICENSE"], "lacks")
    libraries = [name for name in names if name.startswith("fasttail.libs/libgomp")]
    wrong = [] if bool(libraries) == carries_libgomp else libraries or ["libgomp"]
    check(path, wrong, "should or should not carry")
    print(f"{path.name}: {path.stat().st_size} bytes, {', '.join(tags)}")


def check(path: Path, wrong: list[str], verb: str) -> None:
    if wrong:
        sys.exit(f"scripts/wheel: {path.name} {verb} {', '.join(wrong)}")


if __name__ == "__main__":
    main(sys.argv[1], *map(Path, sys.argv[2:]))
