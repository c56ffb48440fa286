"""The command `fasttail`: command line in, exit code out.

    0 done (also when the reader of the output left)    2 what the user gave cannot be used, said in one line
    130 interrupted from the keyboard                   anything else: the command's own

Importing this module loads nothing compiled and changes nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
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
    ServeSettings,
    Settings,
    SynthSettings,
    TailSettings,
    VerifySettings,
    options,
)
from fasttail.config import loading as sources
from fasttail.version import commit, version

S = TypeVar("S", bound=Settings)

_EPILOG = (
    "Every option can also be given as an environment variable (--block-size: FASTTAIL_BLOCK_SIZE) and as "
    "a key of the file named by --config (block_size). Precedence: option, environment, file, default."
)
# What the surroundings refuse, as opposed to what is wrong in the program: one line, no traceback.
# RuntimeError is what Python raises where no thread can be started.
_ENVIRONMENT_ERRORS = (OSError, MemoryError, ImportError, RuntimeError, UnicodeError)
# What becomes of output in the midst of it: no mistake of the user's, so the exit code is 1.
_OUTPUT_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that `argv` (default: the process's arguments) names; returns the exit code."""
    _ensure_standard_descriptors()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may be no text, and a locale lack a letter
    code = _run(argv)
    try:
        # None where the process was started with standard output closed.
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
    except SystemExit as end:  # argparse's, after --help and --version
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
    """What has been refused, in words."""
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
        print(sources.format_settings(settings), end="")
        _print_notices("serve", settings)
        return 0
    _use_passive_wait()
    try:
        _require_threads(settings.workers + _SERVE_THREADS)
        from fasttail import app
        from fasttail.monitoring import stacks

        stacks.install_dump_handler()
        return app.serve(settings, read)
    except Exception as error:
        # `app.serve` lets nothing through once it is ready: this is what keeps it from starting.
        if settings.log_level == "debug":
            import traceback

            with contextlib.suppress(OSError):
                traceback.print_exc()
        raise error if isinstance(error, ConfigError) else ConfigError(_error_text(error)) from error


@contextlib.contextmanager
def _default_sigint() -> Iterator[None]:
    """Ctrl-C ends the process at once meanwhile, instead of raising: some extension modules (orjson's, for
    one) do not survive an exception while they are loaded.
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
        from fasttail.tools import synth

    # A number of lines is wanted as a set of files, not as a stream.
    whole_set = settings.lines is not None and settings.sources["rate"] == "default"
    try:
        done = synth.run(
            settings.directory,
            synth.NodeOptions(
                rate=None if whole_set else settings.rate,
                lines=settings.lines,
                seconds=settings.seconds,
                layout=settings.layout,
                seed=settings.seed,
                hour_seconds=settings.hour_seconds,
                torn=settings.torn,
            ),
        )
    except synth.SynthError as error:
        raise ConfigError(str(error)) from error
    written = f"{done.lines} lines, {done.orders} orders, {done.bytes} bytes, {done.files} files"
    print(f"{written}, {done.seconds:.1f} s")
    return 0


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
    "parse": _parse,
    "synth": _synth,
    "demo": _demo,
    "verify": _verify,
    "bundle": _bundle,
}


_SERVE_THREADS = 6
"""Threads of `serve` besides the workers: log, pipeline, checkpoint, webhook, and room for two more."""


def _require_threads(count: int) -> None:
    """RuntimeError unless so many threads can run at once.

    OpenMP starts its own with the first large batch, and ends the process where it gets none.
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
    """Empty if it has been removed, or may not be looked at."""
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
    return sources.load(settings_type, given, os.environ, base=base, **extra)


def _use_passive_wait() -> None:
    """By default OpenMP's threads spin when they have nothing to do, two fifths of a core at 200 batches a
    second.

    libgomp reads the variable as it is loaded, that is with the first compiled module: this must come before
    its import.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _use_short_spin() -> None:
    """For some 20 µs: a worker of `parse` has its next share that soon, and to wake it would take longer."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")


class _UsageError(Exception):
    """A command line that cannot be understood."""


class _StoreOnce(argparse.Action):
    """An option that has one value. Two different ones are a mistake: which of them counts?"""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,
    ) -> None:
        _set_once(self, namespace, values)


class _BooleanOnce(argparse.BooleanOptionalAction):
    """The same for --name and --no-name."""

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
    """One line for a mistake, where argparse would print its usage as well."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{self.prog}: {message} (see {self.prog} --help)")


def _parser(args: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of a command line; of the commands not among its `args` it knows the names only."""
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
        default = sources.describe_default(settings, option)
        text = (option.help + (f" (default: {default})" if default else "")).replace("%", "%%")
        flag = sources.flag(option)
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
    """Opens what is closed of the descriptors 0, 1 and 2: else a socket gets the number, and the log."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _discard_output() -> None:
    """The interpreter flushes standard output once more as it ends: into nothing, or it would complain."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def _print_error(line: str, code: int = 2) -> int:
    shown = " ".join(line.split())
    if sys.stderr is not None:  # the process was started with it closed
        with contextlib.suppress(OSError, ValueError):  # a full disk: the exit code tells
            print("".join(char if char.isprintable() else "?" for char in shown), file=sys.stderr)
    return code
