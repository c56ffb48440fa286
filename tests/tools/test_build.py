"""setup.py, run on a small package: what must stop a build, and what a build must contain."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.plain_build

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "tests" / "samples"
OURS = {"FASTTAIL_BUILD", "FASTTAIL_STRICT_BUILD", "CC"}
HASH = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Create a checkout with one OpenMP extension in a subpackage."""
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in"):
        shutil.copy(ROOT / name, tmp_path)
    package = tmp_path / "fasttail"
    (package / "parser").mkdir(parents=True)
    (tmp_path / "README.md").touch()
    for name in ("__init__.py", "py.typed", "parser/__init__.py", "parser/pool.pyi", "parser/types.pxd"):
        (package / name).touch()
    shutil.copy(SAMPLES / "pool.pyx", package / "parser")
    return tmp_path


def setup(tree: Path, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name not in OURS}
    return subprocess.run(
        [sys.executable, "setup.py", "-q", *args],
        cwd=tree,
        env=inherited | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def built(tree: Path, kind: str = "release") -> Path:
    """Return the folder that holds the built package."""
    (lib,) = (tree / "build" / kind).glob("lib.*")
    return lib


def run(lib: Path, program: str, **env: str) -> str:
    """Run a program of `samples` against the built package and return its output."""
    done = subprocess.run(
        [sys.executable, SAMPLES / program],
        env=os.environ | {"PYTHONPATH": str(lib)} | env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip()


def test_release(tree: Path) -> None:
    result = setup(tree, "build")
    assert result.returncode == 0, result.stdout
    lib = built(tree)
    assert run(lib, "total.py", MODULE="pool") == "499500"
    assert {"py.typed", "_build_info.py"} <= {path.name for path in (lib / "fasttail").iterdir()}
    held = {path.name for path in (lib / "fasttail" / "parser").iterdir()}
    assert "pool.pyi" in held
    assert "types.pxd" not in held, "nobody could use it"
    assert not list(lib.rglob("*.pyx"))
    assert not list((tree / "fasttail").rglob("*.c"))

    # A removed module is not shipped again, compiled or not.
    (tree / "fasttail" / "parser" / "pool.pyx").rename(tree / "fasttail" / "parser" / "team.pyx")
    (tree / "fasttail" / "parser" / "pool.pyi").unlink()
    result = setup(tree, "build")
    assert result.returncode == 0, result.stdout
    assert not list(lib.rglob("pool*"))
    assert run(lib, "total.py", MODULE="team") == "499500"


def test_an_editable_installation_is_built_in_the_source_tree(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    for found in Path(sysconfig.get_path("purelib")).iterdir():
        if found.name.lower().startswith(("cython", "setuptools", "_distutils_hack")):
            (site / found.name).symlink_to(found)
    pip = [sys.executable, "-m", "pip", "--python", f"{venv}/bin/python", "--disable-pip-version-check"]
    words = [*pip, "install", "-v", "--no-index", "--no-deps", "--no-build-isolation", "-e", str(tree)]
    env = {name: value for name, value in os.environ.items() if name not in OURS}
    done = subprocess.run(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout, "an error that setuptools goes over for now"
    assert list((tree / "fasttail" / "parser").glob("pool.*.so"))

    def total(module: str) -> str:
        command = [f"{venv}/bin/python", f"{SAMPLES}/total.py"]
        return subprocess.check_output(command, env=env | {"MODULE": module}, text=True)

    assert total("pool") == "499500\n"
    (tree / "fasttail" / "parser" / "later.py").write_text("def total(n: int) -> int:\n    return -n\n")
    assert total("later") == "-1000\n", "what is written into the tree is there at once"


def test_debug_checks_bounds(tree: Path) -> None:
    result = setup(tree, "build", FASTTAIL_BUILD="debug")
    assert result.returncode == 0, result.stdout
    assert run(built(tree, "debug"), "out_of_bounds.py") == "checked"
    assert not (tree / "build" / "release").exists()


def test_a_sanitizer_names_the_line_of_an_over_read(tree: Path) -> None:
    shutil.copy(SAMPLES / "over_read.pyx", tree / "fasttail" / "parser" / "pool.pyx")
    result = setup(tree, "build", FASTTAIL_BUILD="asan")
    assert result.returncode == 0, result.stdout
    command = ["gcc", "-print-file-name=libasan.so"]
    library = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    with pytest.raises(RuntimeError, match="heap-buffer-overflow") as found:
        run(built(tree, "asan"), "past_the_end.py", LD_PRELOAD=library, ASAN_OPTIONS="detect_leaks=0")
    assert re.search(r"fasttail/parser/pool\.pyx:10\b", str(found.value))


def test_the_thread_sanitizer_names_the_line_of_a_race(tree: Path) -> None:
    """ThreadSanitizer reports a race with its line, and nothing that OpenMP's fork and join order."""
    clang = shutil.which("clang-19") or shutil.which("clang")
    if clang is None:
        pytest.skip("no clang here: sudo apt-get install clang-19 libclang-rt-19-dev libomp-19-dev llvm-19")
    shutil.copy(SAMPLES / "race.pyx", tree / "fasttail" / "parser" / "pool.pyx")
    result = setup(tree, "build", FASTTAIL_BUILD="tsan", CC=clang)
    assert result.returncode == 0, result.stdout
    env = os.environ | {"PYTHONPATH": str(built(tree, "tsan"))}
    script = f'. scripts/tsan.sh; stop() {{ echo $1 >&2; exit 2; }}; CC={clang}; under_tsan "$@"'

    def total(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", script, "bash", sys.executable, f"{SAMPLES}/racing.py", *words]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)

    good = total()
    assert (good.returncode, good.stdout) == (0, "20\n"), good.stderr
    bad = total("racing")
    assert bad.returncode == 1
    assert re.search(r"WARNING: ThreadSanitizer: data race", bad.stderr)
    assert re.search(r"fasttail/parser/pool\.pyx:10\b", bad.stderr), bad.stderr


def test_a_coverage_build_tells_of_lines_without_the_gil(tree: Path) -> None:
    result = setup(tree, "build", FASTTAIL_BUILD="coverage")
    assert result.returncode == 0, result.stdout
    lines = run(built(tree, "coverage"), "traced_lines.py").split()
    assert "6" in lines
    assert "10" not in lines


def test_an_unknown_kind_is_refused(tree: Path) -> None:
    result = setup(tree, "build", FASTTAIL_BUILD="fast")
    assert result.returncode != 0
    kinds = "release, debug, asan, tsan, fuzz, coverage, profile"
    assert f"FASTTAIL_BUILD=fast: expected one of {kinds}" in result.stdout


def test_a_performance_hint_stops_a_strict_build_each_time(tree: Path) -> None:
    shutil.copy(SAMPLES / "hinted.pyx", tree / "fasttail")
    for _ in range(2):  # the second time, nothing is newer than the C files of the first
        result = setup(tree, "build", FASTTAIL_STRICT_BUILD="1")
        assert result.returncode != 0
        assert "hinted.pyx" in result.stdout
        assert "the build stops at Cython's performance hints above" in result.stdout
    assert setup(tree, "build").returncode == 0, "a user's build"


def test_a_compiler_without_openmp_stops_the_build(tree: Path) -> None:
    result = setup(tree, "build", CC=str(SAMPLES / "cc-without-openmp"))
    assert result.returncode != 0
    assert "needs a C compiler with OpenMP" in result.stdout
    assert not list((tree / "build").rglob("*.so"))


def build_info(tree: Path) -> str:
    result = setup(tree, "build_py", PATH="/nonexistent")  # no git
    assert result.returncode == 0, result.stdout
    return run(built(tree), "build_info.py")


@pytest.mark.parametrize("form", ["loose", "packed", "detached", "worktree"])
def test_the_commit_is_read_without_git(tree: Path, tmp_path: Path, form: str) -> None:
    git = tree / ".git"
    git.mkdir()
    (git / "HEAD").write_text("ref: refs/heads/topic/a\n")
    if form == "loose":
        (git / "refs/heads/topic").mkdir(parents=True)
        (git / "refs/heads/topic/a").write_text(f"{HASH}\n")
        (git / "packed-refs").write_text(f"{HASH[::-1]} refs/heads/topic/a\n")  # older than the loose one
    elif form == "packed":
        lines = ["# pack-refs with: peeled", f"{HASH[::-1]} refs/heads/a", f"{HASH} refs/heads/topic/a", ""]
        (git / "packed-refs").write_text("\n".join(lines))
    elif form == "detached":
        (git / "HEAD").write_text(f"{HASH}\n")
    else:
        common = tmp_path / "main.git"
        git.rename(common)
        (common / "refs/heads/topic").mkdir(parents=True)
        (common / "refs/heads/topic/a").write_text(f"{HASH}\n")
        (common / "worktrees/w").mkdir(parents=True)
        (common / "worktrees/w/HEAD").write_text("ref: refs/heads/topic/a\n")
        (common / "worktrees/w/commondir").write_text("../..\n")
        git.write_text(f"gitdir: {common}/worktrees/w\n")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert build_info(tree) == f"{version} {HASH}"


@pytest.mark.parametrize("head", [None, "ref: refs/heads/unborn\n", "rubbish\n"])
def test_without_a_commit_the_build_says_unknown(tree: Path, head: str | None) -> None:
    if head:
        (tree / ".git").mkdir()
        (tree / ".git" / "HEAD").write_text(head)
    assert build_info(tree).endswith(" unknown")


def test_a_source_distribution_remembers_its_commit_and_holds_no_leftovers(tree: Path) -> None:
    (tree / ".git").mkdir()
    (tree / ".git" / "HEAD").write_text(f"{HASH}\n")
    leftovers = {"pool.c", "pool.cpython-311-x86_64-linux-gnu.so", "pool.pyx.orig", "pool.pyc", "pool.pyx~"}
    for name in leftovers:
        (tree / "fasttail" / name).touch()
    result = setup(tree, "sdist")
    assert result.returncode == 0, result.stdout
    (archive,) = (tree / "dist").glob("*.tar.gz")
    shutil.unpack_archive(archive, tree / "unpacked")
    (unpacked,) = (tree / "unpacked").iterdir()
    assert not leftovers & {path.name for path in unpacked.rglob("*")}
    assert (unpacked / "fasttail" / "parser" / "pool.pyx").is_file()
    assert build_info(unpacked).endswith(HASH)
