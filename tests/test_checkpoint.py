"""The state folder of real processes: resuming after a kill, invalid checkpoints, the lock, a full disk."""

from __future__ import annotations

import errno
import json
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from lines import event, plain
from running import PATIENCE_S, Serve, command, hour_file, serve, wait_for
from shims import preload


def lines(first: int, last: int) -> bytes:
    return plain(*(event(oid=10**11 + i) for i in range(first, last)))


LINE = len(lines(0, 1))


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


class Service:
    """A node's folder, a state folder, and the instances that run on them one after the other."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.state = folder / "state"
        self.file = self.state / "checkpoint.json"
        self.path = hour_file(self.data, "plain", "20260505", 9)
        self.running: list[Serve] = []

    def start(self, *options: object, wait: bool = True) -> Serve:
        server = Serve(self.data, "--state-dir", self.state, *options)
        self.running.append(server)
        if wait:
            server.wait_log(r"following .* from byte \d+")
        return server

    def position(self) -> dict[str, Any]:
        """Return the checkpoint's position; {} if there is none yet."""
        with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            return json.loads(self.file.read_text())["position"] or {}
        return {}

    def wait_position(self, path: Path) -> None:
        """Wait until the checkpoint has reached the end of this file."""
        name, size = str(path.relative_to(self.data)), path.stat().st_size
        wait_for(
            f"byte {size} of {name} in {self.position()}",
            lambda: (self.position().get("path"), self.position().get("offset")) == (name, size),
        )

    def kill(self) -> None:
        assert self.running[-1].end(signal.SIGKILL) == -signal.SIGKILL


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    yield made
    for server in made.running:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
        print("\n".join(server.log[-30:]), "\n")


@pytest.mark.fault(27)
def test_after_a_kill_reading_goes_on_behind_what_was_handed_out(service: Service) -> None:
    """After a kill, reading resumes at the delivered position, across a new hour and a partial line."""
    append(service.path, lines(0, 100) + lines(100, 101)[:200])
    server = service.start("--from", "oldest")
    server.wait_metric("fasttail_lines_total", 100)
    name = str(service.path.relative_to(service.data))
    wait_for("the checkpoint", lambda: service.position().get("offset") == 100 * LINE)
    position = service.position()
    status = service.path.stat()
    assert (position["path"], position["dev"], position["ino"]) == (name, status.st_dev, status.st_ino)
    service.kill()
    append(service.path, lines(100, 101)[200:] + lines(101, 150))
    following = hour_file(service.data, "plain", "20260505", 10)
    append(following, lines(150, 170))
    server = service.start()
    assert server.find(rf"following {service.path} from byte {100 * LINE}")
    server.wait_metric("fasttail_lines_total", 70)
    assert server.metric("fasttail_rejected_lines_total") == 0
    service.wait_position(following)
    assert server.metric("fasttail_checkpoints_total") >= 1
    wait_for("a young checkpoint", lambda: server.metric("fasttail_checkpoint_age_seconds") < 30)
    assert server.metric("fasttail_resume_losses_total") == 0


@pytest.mark.fault(27, 4)
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_late_lines_over_a_kill(service: Service, end: signal.Signals) -> None:
    """A previous hour that may still grow is resumed at its delivered position."""
    append(service.path, lines(0, 10))
    server = service.start("--from", "oldest", "--grace-s", 300)
    following = hour_file(service.data, "plain", "20260505", 10)
    append(following, lines(10, 20))
    server.wait_metric("fasttail_lines_total", 20)
    append(service.path, lines(20, 23))
    server.wait_metric("fasttail_late_lines_total", 3)
    wait_for(
        "the checkpoint",
        lambda: [each["offset"] for each in service.position().get("formers", [])] == [13 * LINE],
    )
    assert server.end(end) == (0 if end == signal.SIGTERM else -end)
    append(service.path, lines(23, 28))
    append(following, lines(28, 30))
    server = service.start("--grace-s", 300)
    server.wait_metric("fasttail_late_lines_total", 5)
    server.wait_metric("fasttail_lines_total", 7)
    service.wait_position(following)
    time.sleep(0.3)
    assert server.metric("fasttail_lines_total") == 7


@pytest.mark.fault(4)
def test_a_former_hour_written_anew_meanwhile(service: Service) -> None:
    """A previous hour rewritten before the restart is recognized and not read from its middle."""
    append(service.path, lines(0, 10))
    server = service.start("--from", "oldest", "--grace-s", 300)
    following = hour_file(service.data, "plain", "20260505", 10)
    append(following, lines(10, 20))
    server.wait_metric("fasttail_lines_total", 20)
    service.wait_position(following)
    wait_for("the checkpoint", lambda: service.position().get("formers"))
    server.end(signal.SIGKILL)
    service.path.write_bytes(b" " + lines(30, 50))
    server = service.start("--grace-s", 300)
    server.wait_log("rewritten after its hour; not reading it again")
    append(following, lines(20, 21))
    server.wait_metric("fasttail_lines_total", 1)
    time.sleep(0.3)
    assert server.metric("fasttail_late_lines_total") == 0


@pytest.mark.fault(27)
def test_what_waits_for_the_next_order_batch_is_not_handed_out_yet(service: Service) -> None:
    append(service.path, lines(0, 10))
    server = service.start("--batch-interval-ms", 60_000)
    client = server.client("orderBatch")
    for i in (10, 20):
        append(service.path, lines(i, i + 10))
        server.wait_metric("fasttail_lines_total", i)
    since = time.monotonic()
    # A checkpoint that has not moved is not written again, but its age restarts as if it had been.
    wait_for(
        "two more checkpoints",
        lambda: time.monotonic() - server.metric("fasttail_checkpoint_age_seconds") > since + 2,
    )
    assert service.position()["offset"] == 10 * LINE
    assert server.end() == 0
    assert len(client.wait_orders(20)) == 20
    assert service.position()["offset"] == 30 * LINE


@pytest.mark.fault(27)
def test_a_kill_before_the_first_line(service: Service) -> None:
    """A start at the end of a file is saved before anything has been read."""
    append(service.path, lines(0, 10))
    service.start()
    service.wait_position(service.path)
    service.kill()
    append(service.path, lines(10, 15))
    service.start().wait_metric("fasttail_lines_total", 5)


@pytest.mark.fault(27)
def test_a_kill_before_the_first_file(service: Service) -> None:
    service.start(wait=False)
    wait_for("a checkpoint", service.file.exists)
    assert service.position() == {}
    service.kill()
    append(service.path, lines(0, 10))
    service.start().wait_metric("fasttail_lines_total", 10)


def test_late_lines_leave_the_place_as_it_is(service: Service) -> None:
    append(service.path, lines(0, 10))
    following = hour_file(service.data, "plain", "20260505", 10)
    append(following, lines(10, 15))
    server = service.start("--from", "oldest", "--grace-s", 30)
    server.wait_metric("fasttail_lines_total", 15)
    append(service.path, lines(15, 18))
    server.wait_metric("fasttail_late_lines_total", 3)
    assert server.end() == 0
    name = str(following.relative_to(service.data))
    assert (service.position()["path"], service.position()["offset"]) == (name, 5 * LINE)
    service.start()
    assert service.running[-1].find(rf"following {following} from byte {5 * LINE}")


def test_a_stop_keeps_the_last_line(service: Service) -> None:
    """A stop writes the checkpoint at once instead of waiting until it is due."""
    append(service.path, b"")
    server = service.start()
    for i in range(5):
        append(service.path, lines(i * 10, i * 10 + 10))
        server.wait_metric("fasttail_lines_total", 10)
        assert server.end() == 0
        assert service.position()["offset"] == (i + 1) * 10 * LINE
        server = service.start()
        assert server.find(rf"from byte {(i + 1) * 10 * LINE}")


def test_the_start_can_be_chosen_all_the_same(service: Service) -> None:
    append(service.path, lines(0, 10))
    service.start().end()
    service.start("--from", "oldest").wait_metric("fasttail_lines_total", 10)


def test_a_moved_folder_and_a_copied_file_are_the_same(service: Service) -> None:
    """The checkpoint's path is relative to the data folder, and content counts more than the inode."""
    append(service.path, lines(0, 10))
    service.start().end()
    moved = service.data.with_name("moved")
    service.data.rename(moved)
    service.data = moved
    service.path = hour_file(moved, "plain", "20260505", 9)
    content = service.path.read_bytes()
    service.path.rename(service.path.with_name("former"))
    service.path.write_bytes(content + lines(10, 13))
    server = service.start()
    server.wait_metric("fasttail_lines_total", 3)
    assert server.metric("fasttail_resume_losses_total") == 0


@pytest.mark.fault(25)
@pytest.mark.parametrize("change", ["shorter", "other bytes"])
def test_an_offset_that_the_file_does_not_have(service: Service, change: str) -> None:
    """If the file does not match the checkpoint, it is read from its start, logged and counted."""
    append(service.path, lines(0, 100))
    service.start().end()
    service.path.write_bytes(lines(500, 540) if change == "shorter" else lines(500, 640))
    server = service.start()
    server.wait_metric("fasttail_lines_total", 40 if change == "shorter" else 140)
    what = f"it has {40 * LINE} bytes" if change == "shorter" else "it was rewritten"
    assert server.find(f"WARNING .*cannot resume {service.path} at byte {100 * LINE}: {what}; reading it")
    assert server.metric("fasttail_resume_losses_total") == 1


def test_a_file_that_is_gone(service: Service) -> None:
    """If the file is gone, the oldest one after it comes next, and the loss is counted."""
    append(service.path, lines(0, 100))
    service.start().end()
    service.path.unlink()
    for hour in (11, 13):
        append(hour_file(service.data, "plain", "20260505", hour), lines(0, 20))
    server = service.start()
    server.wait_metric("fasttail_lines_total", 40)
    assert server.find(f"WARNING .*cannot resume {service.path}: it was removed")
    assert server.metric("fasttail_resume_losses_total") == 1


GOOD = {"path": "node_order_statuses/hourly/20260505/9", "offset": 0, "dev": 1, "ino": 1}
NO_CHECKPOINTS = {
    "missing": None,
    "empty": b"",
    "blank": b" \n",
    "NUL bytes": bytes(4096),
    "no JSON": b"{",
    "half of it": json.dumps({"version": 1, "position": GOOD}).encode()[:-20],
    "no object": b"7",
    "no version": b'{"position":null}',
    "older": json.dumps({"version": 0, "offset": 17}).encode(),
    "newer": json.dumps({"version": 2, "position": GOOD}).encode(),
    "offset below 0": json.dumps({"version": 1, "position": GOOD | {"offset": -1}}).encode(),
    "offset as text": json.dumps({"version": 1, "position": GOOD | {"offset": "0"}}).encode(),
    "nested without end": b"[" * 60_000,
    "far too long": b'{"version":1,"position":null' + b" " * 100_000 + b"}",
    "a number without end": b'{"version":1,"position":{"offset":' + b"9" * 10_000 + b"}}",
    "not UTF-8": b'{"version":1,"position":"\xff\xfe"}',
    "another folder": json.dumps({"version": 1, "position": GOOD | {"path": "../../etc/passwd"}}).encode(),
    "a NUL in the path": json.dumps({"version": 1, "position": GOOD | {"path": "a\0b"}}).encode(),
    "a folder": "folder",
    "not readable": "unreadable",
}


@pytest.mark.fault(26)
@pytest.mark.parametrize("content", NO_CHECKPOINTS.values(), ids=NO_CHECKPOINTS)
def test_what_is_no_checkpoint(service: Service, content: bytes | str | None) -> None:
    """An invalid checkpoint is logged and ignored, and a valid one replaces it."""
    append(service.path, lines(0, 10))
    service.state.mkdir()
    if content == "folder":
        service.file.mkdir()
    elif content == "unreadable":
        service.file.symlink_to("checkpoint.json")  # a loop: fails for root too
    elif isinstance(content, bytes):
        service.file.write_bytes(content)
    server = service.start()
    assert server.find(r"WARNING .*(ignoring checkpoint .*: \w|cannot resume)")
    assert server.find(rf"following {service.path} from byte {10 * LINE}")
    append(service.path, lines(10, 13))
    server.wait_metric("fasttail_lines_total", 3)
    if content != "folder":
        service.wait_position(service.path)
    assert server.end() == 0
    assert server.count("ERROR") == 0


def second(service: Service) -> subprocess.CompletedProcess[str]:
    words = command("serve", service.data, "--port", 0, "--state-dir", service.state)
    return subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def test_a_restart_out_of_another_version(service: Service) -> None:
    """If another version saved the position before the restart, it is ignored and the checkpoint counts."""
    append(service.path, lines(0, 10))
    service.start().end()
    append(service.path, lines(10, 13))
    state = {"version": 2, "pid": 0, "fds": [], "position": '{"place": 7}', "started": 1.0, "restarts": 1}
    text = json.dumps({**state, "recent": [], "kept": []}).replace('"pid": 0', "\"pid\": '$$'")
    server = Serve(
        service.data,
        "--state-dir",
        service.state,
        wrap=["bash", "-c", f"export FASTTAIL_RESTART='{text}'; exec \"$@\"", "bash"],
    )
    service.running.append(server)
    server.wait_log("ignoring the position saved before the restart: not a position")
    server.wait_metric("fasttail_lines_total", 3)


@pytest.mark.fault(41)
def test_a_second_instance_refuses_to_start(service: Service) -> None:
    append(service.path, lines(0, 10))
    server = service.start()
    for _ in range(2):
        done = second(service)
        assert done.returncode == 2
        assert done.stderr == (
            f"fasttail serve: another fasttail (process {server.process.pid}) uses the state folder "
            f"{service.state}; each instance needs its own\n"
        )
    append(service.path, lines(10, 13))
    server.wait_metric("fasttail_lines_total", 3)
    service.kill()
    service.start().end()  # the lock ended with the process


@pytest.mark.plain_build
@pytest.mark.fault(41)
def test_a_restart_in_place_keeps_the_lock_and_the_place(service: Service) -> None:
    append(service.path, b"")
    server = service.start(
        "--debug-leak", 25, "--memory-limit-mb", 130, "--memory-warmup-s", 0, "--memory-window-s", 2
    )
    lock = service.state / "lock"
    locked = lock.stat().st_mtime_ns
    sent = 0
    while server.count("restart 2 in place") < 1:
        append(service.path, lines(sent, sent + 20))
        sent += 20
        if sent % 2000 == 0:
            assert second(service).returncode == 2
        time.sleep(0.005)
        assert sent < 1_000_000

    def has_read_all() -> bool:
        try:
            return server.metric("fasttail_file_offset_bytes") == service.path.stat().st_size
        except OSError:
            return False  # it restarts once more

    wait_for("all", has_read_all)
    assert second(service).returncode == 2
    assert server.open_files().count(str(lock)) == 1
    assert lock.stat().st_mtime_ns == locked, "it was taken again: another could have come in between"
    assert server.end() == 0
    assert service.position()["offset"] == service.path.stat().st_size
    stopped = [found for line in server.log if (found := re.search(r"stopped: (\d+) lines", line))]
    # Each image logs once its version and once what it has read. There are more than three images if the
    # third one also reached the limit before it was stopped.
    assert len(stopped) == server.count("(commit ") >= 3
    assert sum(int(found[1]) for found in stopped) == sent
    assert server.count("ignoring checkpoint") == 1, "only the first life has none"
    assert server.count("cannot resume") == 0


@pytest.mark.fault(34)
def test_a_full_disk_costs_the_checkpoint_only(service: Service) -> None:
    """With a file size limit of 0, the failure is logged once and counted, and the checkpoint recovers."""
    append(service.path, b"")
    server = service.start()
    wait_for("a checkpoint", service.file.exists)
    before = service.position()
    _, hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (0, hard))
    client = server.client()
    append(service.path, lines(0, 10))
    assert len(client.wait_orders(10)) == 10
    wait_for("two failures", lambda: server.metric("fasttail_checkpoint_failures_total") >= 2)
    assert server.metric("fasttail_checkpoint_age_seconds") > 1
    assert server.count("WARNING  cannot write checkpoint") == 1
    assert service.position() == before
    assert sorted(path.name for path in service.state.iterdir()) == ["checkpoint.json", "lock"]
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    service.wait_position(service.path)
    server.wait_log(r"checkpoint written again after \d+ failures")
    wait_for("a young checkpoint", lambda: server.metric("fasttail_checkpoint_age_seconds") < 5)


def fill(path: Path) -> None:
    """Write until an OSError."""
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


MOUNT = 'mount -t tmpfs -o size=32k none "$0" && exec "$@"'


@pytest.mark.fault(34)
def test_a_full_file_system(service: Service) -> None:
    """On a tmpfs of eight pages, filled by another process, the checkpoint fails and recovers."""
    service.state.mkdir()
    within = ["unshare", "-Urm", "sh", "-c", MOUNT, str(service.state)]
    if subprocess.run([*within, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here")
    append(service.path, b"")
    server = Serve(service.data, "--state-dir", service.state, wrap=within)
    service.running.append(server)
    root = Path("/proc", str(server.process.pid), "root")
    service.state = root / service.state.relative_to("/")
    service.file = service.state / "checkpoint.json"
    service.wait_position(service.path)
    with pytest.raises(OSError, match="No space left"):
        fill(service.state / "other")
    append(service.path, lines(0, 10))
    server.wait_log("WARNING  cannot write checkpoint .*: No space left on device; trying again")
    server.wait_metric("fasttail_lines_total", 10)
    assert service.position()["offset"] == 0
    (service.state / "other").unlink()
    service.wait_position(service.path)
    server.wait_log(r"checkpoint written again after \d+ failures")


def test_a_state_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    words = command("serve", tmp_path, "--port", 0, "--state-dir", tmp_path / "file" / "state")
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"fasttail serve: .*/file/state: Not a directory\n", done.stderr)


def test_without_a_state_folder_none_is_kept(tmp_path: Path) -> None:
    path = hour_file(tmp_path / "data", "plain", "20260505", 9)
    append(path, lines(0, 10))
    for _ in range(2):
        with serve(tmp_path / "data") as server:
            server.wait_log(rf"following .* from byte {path.stat().st_size}")
            assert server.end() == 0
        append(path, lines(10, 20))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["data"]


@pytest.mark.fault(26, 27)
def test_hundreds_of_short_hours(service: Service) -> None:
    """Only 64 previous hours are kept, so that the checkpoint stays small enough to be read."""
    for day in range(1, 21):
        for hour in range(24):
            append(hour_file(service.data, "plain", f"202604{day:02}", hour), lines(0, 1))
    server = service.start("--from", "oldest")
    server.wait_metric("fasttail_lines_total", 480)
    last = hour_file(service.data, "plain", "20260420", 23)
    service.wait_position(last)
    assert len(service.position()["formers"]) == 64
    service.kill()
    append(last, lines(1, 5))
    server = service.start()
    server.wait_metric("fasttail_lines_total", 4)
    assert not server.count("ignoring checkpoint")


@pytest.mark.fault(26, 31)
def test_folders_that_could_not_be_looked_at_are_not_empty(service: Service) -> None:
    append(service.path, lines(0, 100))
    hourly = service.path.parents[1]
    away = hourly.rename(hourly.with_name("away"))
    hourly.symlink_to(hourly)  # an error for root too
    server = service.start(wait=False)
    server.wait_log("cannot follow")
    time.sleep(1.5)
    assert server.end() == 0
    hourly.unlink()
    away.rename(hourly)
    server = service.start()
    assert server.find(rf"following {service.path} from byte {100 * LINE}")


@pytest.mark.fault(24, 27)
def test_a_file_that_is_gone_before_its_content_is_known(service: Service) -> None:
    """A file deleted before its content is known is not confused with the next one, even if inodes match."""
    append(service.path, b"")
    server = service.start()
    service.wait_position(service.path)
    append(service.path, lines(0, 100))
    server.wait_metric("fasttail_lines_total", 100)
    inode = service.path.stat().st_ino
    service.path.unlink()
    wait_for("the checkpoint", lambda: service.position()["offset"] == 100 * LINE)
    service.kill()
    for number in range(3000):
        made = service.path.with_name(f"other{number}")
        append(made, lines(100, 300))
        if made.stat().st_ino == inode or service.position()["before"]:
            break
    made.rename(service.path)
    server = service.start()
    server.wait_metric("fasttail_lines_total", 200)
    assert server.metric("fasttail_resume_losses_total") == 1


@pytest.mark.fault(41)
def test_a_state_folder_that_was_made_anew_belongs_to_who_made_it(service: Service) -> None:
    append(service.path, lines(0, 1))
    first = service.start()
    service.wait_position(service.path)
    shutil.rmtree(service.state)
    second = service.start()
    append(service.path, lines(1, 2))
    service.wait_position(service.path)
    first.wait_log("cannot write checkpoint .*the state folder's lock file is missing; trying again")
    assert second.metric("fasttail_checkpoint_failures_total") == 0


@pytest.mark.fault(45)
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_fsync(tmp_path: Path, code: int) -> None:
    """Without fsync, the checkpoint is still written and valid, and one warning is logged."""
    env = preload(tmp_path, "no_fsync", FSYNC_ERRNO=code)
    path = hour_file(tmp_path / "data", "plain", "20260505", 9)
    path.write_bytes(plain(event(oid=1)))
    options = ("--state-dir", tmp_path / "state")
    with serve(tmp_path / "data", "--from", "oldest", *options, env=env) as running:
        wait_for("two checkpoints", lambda: running.metric("fasttail_checkpoints_total") >= 1)
        with path.open("ab") as file:
            file.write(plain(event(oid=2)))
        wait_for("another", lambda: running.metric("fasttail_checkpoints_total") >= 2)
        assert running.metric("fasttail_checkpoint_failures_total") == 0
        running.end()
        assert running.count("does not support fsync") == 1
    assert sorted(each.name for each in (tmp_path / "state").iterdir()) == ["checkpoint.json", "lock"]
    state = json.loads((tmp_path / "state" / "checkpoint.json").read_bytes())
    assert state["position"]["offset"] == path.stat().st_size


@pytest.mark.fault(34, 45)
def test_an_fsync_that_fails_is_a_failure(tmp_path: Path) -> None:
    env = preload(tmp_path, "no_fsync", FSYNC_ERRNO=errno.EIO)
    path = hour_file(tmp_path / "data", "plain", "20260505", 9)
    path.write_bytes(plain(event(oid=1)))
    with serve(tmp_path / "data", "--from", "oldest", "--state-dir", tmp_path / "state", env=env) as running:
        wait_for("a failure", lambda: running.metric("fasttail_checkpoint_failures_total") >= 1)
        assert not (tmp_path / "state" / "checkpoint.json").exists()


@pytest.mark.fault(29, 45)
def test_what_a_container_forbids_is_done_without(tmp_path: Path) -> None:
    """System calls forbidden by seccomp, gVisor or an old kernel are not needed."""
    path = hour_file(tmp_path / "data", "plain", "20260505", 9)
    path.write_bytes(plain(event(oid=1)))
    options = ("--from", "oldest", "--state-dir", tmp_path / "state")
    with serve(tmp_path / "data", *options, env=preload(tmp_path, "forbidden_calls")) as running:
        running.wait_metric("fasttail_lines_total", 1)
        with path.open("ab") as file:
            file.write(plain(event(oid=2)))
        running.wait_metric("fasttail_lines_total", 2)
        assert running.count("inotify is unavailable (Function not implemented); polling instead") == 1
        assert running.end() == 0
