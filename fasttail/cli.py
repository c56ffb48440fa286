"""The command line of `fasttail`: parses arguments, runs the command, returns the exit code.

    0      success, also if the reader of the output has left
    2      unusable input or environment, reported in one line
    130    interrupted from the keyboard
    other  from the command itself

Importing this module loads no compiled module and has no side effects.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import importlib.util
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from fasttail.config import (
    COMMANDS,
    BundleSettings,
    ConfigError,
    DemoSettings,
    ParseSettings,
    RelaySettings,
    ServeSettings,
    Settings,
    SynthSettings,
    TailSettings,
    VerifySettings,
    loading,
    options,
)
from fasttail.version import commit, version

S = TypeVar("S", bound=Settings)

_EPILOG = (
    "Every option can also be given as an environment variable (--block-size: FASTTAIL_BLOCK_SIZE) and as "
    "a key of the file named by --config (block_size). Precedence: option, environment, file, default."
)
# Errors of the environment rather than of the program, reported in one line without a traceback. Python
# raises RuntimeError if it cannot start a thread.
_ENVIRONMENT_ERRORS = (OSError, MemoryError, ImportError, RuntimeError, UnicodeError)
# Failures of the output while it is written. They are not the user's mistake, so the exit code is 1.
_OUTPUT_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (default: the process's arguments) names, and return the exit code."""
    _ensure_standard_descriptors()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for undecodable paths and limited encodings
    code = _run(argv)
    try:
        # None if the process was started with standard output closed.
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
    except OSError as error:
        _discard_output()
        return code or _print_error(f"fasttail: standard output: {error.strerror}", 1)
    return code


def _run(argv: Sequence[str] | None) -> int:
    name = "fasttail"
    try:
        args = sys.argv[1:] if argv is None else argv
        arguments = _parser(args).parse_args(args)
        name = f"fasttail {arguments.command}"
        return _COMMANDS[arguments.command](arguments)
    except SystemExit as end:  # from argparse, after --help and --version
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    except _UsageError as error:
        return _print_error(str(error))
    except ConfigError as error:
        return _print_error(f"{name}: {error}")
    except _ENVIRONMENT_ERRORS as error:
        output_failed = isinstance(error, OSError) and error.errno in _OUTPUT_ERRNOS
        return _print_error(f"{name}: {_error_text(error)}", 1 if output_failed else 2)


def _error_text(error: Exception) -> str:
    """Describe an error in words, without its traceback."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror}"
    if isinstance(error, MemoryError):
        return "out of memory"
    text = str(error)
    if isinstance(error, _ENVIRONMENT_ERRORS) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _serve(arguments: argparse.Namespace) -> int:
    print_config = arguments.__dict__.pop("print_config")
    start_folder = _current_folder()

    def read() -> ServeSettings:
        return _settings(ServeSettings, arguments, base=start_folder)

    settings = read()
    if print_config:
        print(loading.format_settings(settings), end="")
        _print_notices("serve", settings)
        return 0
    _use_passive_wait()
    try:
        if settings.nats_url or settings.from_nats:
            _require_nats()
        _require_threads(settings.workers + _SERVE_THREADS + len(settings.streams))
        from fasttail import app
        from fasttail.monitoring import stacks

        stacks.install_dump_handler()
        return app.serve(settings, read)
    except Exception as error:
        # `app.serve` raises only before it is ready, so this error prevented the start.
        if settings.log_level == "debug":
            import traceback

            with contextlib.suppress(OSError):
                traceback.print_exc()
        raise error if isinstance(error, ConfigError) else ConfigError(_error_text(error)) from error


@contextlib.contextmanager
def _default_sigint() -> Iterator[None]:
    """Let Ctrl-C end the process at once instead of raising KeyboardInterrupt.

    Some extension modules (such as orjson's) do not survive an exception during their import.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _require_nats() -> None:
    """Raise ConfigError unless the packages of the extra `nats` are installed."""
    names = ["nats"] if sys.version_info >= (3, 14) else ["nats", "backports"]
    if any(importlib.util.find_spec(name) is None for name in names):
        raise ConfigError("NATS needs more packages: pip install 'fasttail[nats]'")


def _relay(arguments: argparse.Namespace) -> int:
    settings = _settings(RelaySettings, arguments)
    _print_notices("relay", settings)
    _require_nats()
    _use_passive_wait()
    with _default_sigint():
        from fasttail.commands import relay as relay_command

    return relay_command.relay(settings)


def _tail(arguments: argparse.Namespace) -> int:
    settings = _settings(TailSettings, arguments)
    _print_notices("tail", settings)
    _use_passive_wait()
    _require_threads(settings.workers)
    with _default_sigint():
        from fasttail.commands import tail as tail_command

    return tail_command.tail_folder(settings)


def _parse(arguments: argparse.Namespace) -> int:
    settings = _settings(ParseSettings, arguments, files=tuple(arguments.files))
    _print_notices("parse", settings)
    _use_short_spin()
    _require_threads(settings.workers)
    with _default_sigint():
        from fasttail.commands import parse as parse_command

    return parse_command.parse_files(settings)


def _synth(arguments: argparse.Namespace) -> int:
    settings = _settings(SynthSettings, arguments)
    _print_notices("synth", settings)
    with _default_sigint():
        from fasttail.tools.exchange import SynthError, command

    # --lines alone asks for a set of files and not for a stream, so it is written at full speed.
    if settings.lines is not None and settings.sources["rate"] == "default":
        settings = dataclasses.replace(settings, rate=None)
    try:
        return command.synth(settings)
    except SynthError as error:
        raise ConfigError(str(error)) from error


def _demo(arguments: argparse.Namespace) -> int:
    settings = _settings(DemoSettings, arguments)
    _print_notices("demo", settings)
    _use_passive_wait()
    with _default_sigint():
        from fasttail.tools import demo

    return demo.run(settings)


def _verify(arguments: argparse.Namespace) -> int:
    settings = _settings(VerifySettings, arguments)
    _print_notices("verify", settings)
    with _default_sigint():
        from fasttail.tools.verify import command

    return command.verify(settings)


def _bundle(arguments: argparse.Namespace) -> int:
    settings = _settings(BundleSettings, arguments)
    _print_notices("bundle", settings)
    with _default_sigint():
        from fasttail.tools.bundle import command

    return command.bundle(settings)


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "serve": _serve,
    "tail": _tail,
    "relay": _relay,
    "parse": _parse,
    "synth": _synth,
    "demo": _demo,
    "verify": _verify,
    "bundle": _bundle,
}


_SERVE_THREADS = 6
"""Threads of `serve` besides the workers: log, pipeline, checkpoint, webhook, and two spare ones."""


def _require_threads(count: int) -> None:
    """Raise RuntimeError unless `count` threads can run at once.

    OpenMP starts its own threads later, and ends the process if it cannot.
    """
    release = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=release.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise RuntimeError(f"{error}: {count} threads are needed") from None
    finally:
        release.set()
        for thread in started:
            thread.join()


def _current_folder() -> str:
    """Return the current folder, or "" if it was removed or may not be read."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _print_notices(command: str, settings: Settings) -> None:
    for notice in settings.notices:
        _print_error(f"fasttail {command}: {notice}")


def _settings(
    settings_type: type[S], arguments: argparse.Namespace, *, base: str | None = None, **extra: object
) -> S:
    given = {
        name: ",".join(value) if isinstance(value, list) else value
        for name, value in vars(arguments).items()
        if name not in extra
    }
    return loading.load(settings_type, given, os.environ, base=base, **extra)


def _use_passive_wait() -> None:
    """Let idle OpenMP threads sleep. By default they spin, two fifths of a core at 200 batches per second.

    libgomp reads the variable when it is loaded, with the first compiled module, so this must run before that
    import.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _use_short_spin() -> None:
    """Let idle OpenMP threads spin for about 20 µs.

    A worker of `parse` gets its next share that soon, and waking it would take longer.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")


class _UsageError(Exception):
    """An invalid command line."""


class _StoreOnce(argparse.Action):
    """Stores one value. Giving two different ones is an error, because it is unclear which counts."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        _set_once(self, namespace, values)


class _BooleanOnce(argparse.BooleanOptionalAction):
    """Like `_StoreOnce`, for --name and --no-name."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        _set_once(self, namespace, not (option or "").startswith("--no-"))


def _set_once(action: argparse.Action, namespace: argparse.Namespace, value: Any) -> None:
    if getattr(namespace, action.dest, None) not in (None, value):
        raise argparse.ArgumentError(action, "given twice, with different values")
    setattr(namespace, action.dest, value)


class _Parser(argparse.ArgumentParser):
    """Reports an error in one line, without the usage that argparse would print."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{self.prog}: {message} (see {self.prog} --help)")


def _parser(args: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser for a command line. Only the commands among `args` get their options."""
    parser = _Parser(
        prog="fasttail",
        description="Follows the order files of a Hyperliquid node and broadcasts them to WebSocket clients.",
        epilog=_EPILOG,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"fasttail {version()} (commit {commit()})",
        help="print version and commit",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, arguments, description in (
        ("serve", "DATA_DIR", "follow a node's folder and broadcast its orders on WebSockets"),
        ("tail", "DATA_DIR", "print a node's orders as they arrive"),
        ("relay", "NATS_URL DIR", "write the streams that are in NATS JetStream to a folder like a node's"),
        ("parse", "FILE...", "print the orders in files, once"),
        ("synth", "DIR", "simulate a node: write hour files that grow and rotate"),
        ("demo", "", "run a simulated node, a server and a client that prints what arrives"),
        ("bundle", "", "gather what a bug report needs in one archive, without secrets"),
        ("verify", "", "check a running server or a log: PASS or FAIL for each point of the checklist"),
    ):
        command = commands.add_parser(
            name,
            usage=f"fasttail {name} {arguments} [options]".replace("  ", " "),
            help=description,
            description=f"{description[0].upper()}{description[1:]}.",
            epilog=_EPILOG,
            allow_abbrev=False,
        )
        if name == "parse":
            command.add_argument(
                "files",
                nargs="+",
                metavar="FILE",
                help="the node's file, in any layout; - for standard input",
            )
        if name in args:
            _add_options(command, COMMANDS[name])
        if name == "serve":
            text = "print each setting and its source, and exit"
            command.add_argument("--print-config", action="store_true", help=text)
    return parser


def _add_options(parser: argparse.ArgumentParser, settings: type[Settings]) -> None:
    debugging: argparse._ArgumentGroup | None = None
    for option in options(settings):
        if option.file_only:
            continue
        value_type = option.value_type
        default = loading.describe_default(settings, option)
        text = (option.help + (f" (default: {default})" if default else "")).replace("%", "%%")
        flag = loading.flag(option)
        group: argparse._ActionsContainer = parser
        if option.debugging:
            debugging = debugging or parser.add_argument_group(
                "for testing failures; never use in production"
            )
            group = debugging
        if option.positional:
            group.add_argument(option.dest, nargs="?", metavar=value_type.metavar, help=text)
        elif value_type.is_switch:
            group.add_argument(flag, dest=option.dest, action=_BooleanOnce, default=None, help=text)
        else:
            action: Any = "append" if value_type.repeats else _StoreOnce
            flags = [f"-{option.short}", flag] if option.short else [flag]
            group.add_argument(*flags, dest=option.dest, metavar=value_type.metavar, action=action, help=text)


def _ensure_standard_descriptors() -> None:
    """Open closed descriptors among 0, 1 and 2; else a socket could get the number, and receive the log."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _discard_output() -> None:
    """Redirect standard output to /dev/null, because the interpreter flushes it once more at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _print_error(line: str, code: int = 2) -> int:
    shown = " ".join(line.split())
    if sys.stderr is not None:  # None if the process was started with it closed
        with contextlib.suppress(OSError, ValueError):  # a full disk, say; the exit code remains
            print("".join(char if char.isprintable() else "?" for char in shown), file=sys.stderr)
    return code
