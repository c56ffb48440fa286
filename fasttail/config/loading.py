"""Fills in a command's settings. The first that has a value counts:

    option (--port 9000)  >  environment (FASTTAIL_PORT=9000)  >  file (port = 9000)  >  default

An empty environment variable counts as not set. One that an orchestrator made of a service's name is none of
ours: Kubernetes sets FASTTAIL_PORT=tcp://… where a Service is called "fasttail". A file may hold the settings
of all commands: those of other commands are passed over, a key that no command knows is an error. Nothing
that was given is lost in silence: the settings' `notices` say what has no effect.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from fasttail.config import file
from fasttail.config.schema import COMMANDS, ConfigError, Option, Settings, options
from fasttail.config.value_types import ExplainedValueError, unused_keys

S = TypeVar("S", bound=Settings)

NON_SETTING_VARIABLES = frozenset(
    f"FASTTAIL_{name}"
    for name in (
        *("BIND", "BUILD", "CPUS", "DOCKER", "ENGINE", "IMAGE", "ISA", "KILLS", "MEMORY", "NEED_PROMTOOL"),
        *("NEED_PROXIES", "NEED_SDKS", "NEED_SYSTEMD", "PUBLISH", "REAL_DATA", "RESTART", "SEED", "SOURCES"),
        *("STRICT_BUILD", "TAG", "TOKEN", "WITHOUT_REAL_DATA"),
    )
)
"""Those that are read elsewhere, and are no settings: docs/configuration.md."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 500

# Made of the name of a Service (Kubernetes) or of a linked container (Docker) that begins with "fasttail".
_LINK_VALUE = re.compile(r"(?:tcp|udp|sctp)://\S+:[0-9]+")
_LINK_NAME = re.compile(
    r"FASTTAIL_(?:\w+_)??(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)\w*)?|NAME|ENV_\w+)"
)


def flag(option: Option) -> str:
    """The option on the command line."""
    return "--" + option.name.replace("_", "-")


def env_name(option: Option) -> str:
    """The environment variable."""
    return "FASTTAIL_" + option.name.upper()


def load(
    settings: type[S],
    given: Mapping[str, str | bool | None],
    environ: Mapping[str, str],
    *,
    base: str | None = None,
    **extra: Any,
) -> S:
    """The settings of a command; ConfigError for the first that is not as expected.

    `given` holds what the command line said, by `dest`: text as it was typed, or a bool for an option without
    a value. `base` is the folder that relative paths begin at, so that they mean the same for as long as the
    process lives; "" if there is none any more, None to leave them as they are. `extra` are fields that are
    no settings (the files to parse); they are taken as they are.
    """
    schema = options(settings)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    notices: list[str] = []
    for option in schema:
        raw = given.get(option.dest)
        if raw is not None:
            name = option.value_type.metavar if option.positional else flag(option)
            values[option.dest] = raw if isinstance(raw, bool) else _read_text(option, raw, name)
            sources[option.name] = "flag"
        elif not option.file_only and (raw := _environment_value(option, environ, notices)):
            values[option.dest] = _read_text(option, raw, f"environment variable {env_name(option)}")
            sources[option.name] = f"env {env_name(option)}"
    _resolve_paths(values, base)
    path = values.get("config")
    if path is not None:
        _read_file(path, schema, values, sources, notices)
        _resolve_paths(values, base)
    for option in schema:
        sources.setdefault(option.name, "default")
    for option in schema:
        if option.positional and option.dest not in values:
            raise ConfigError(
                f"no {option.value_type.metavar} given (nor {env_name(option)}, nor {option.name} in a file)"
            )
    loaded = settings(sources=sources, **values, **extra)
    loaded.check()
    notices += _unknown_variables(schema, environ) + loaded.ineffective_settings()
    return dataclasses.replace(loaded, notices=tuple(notices))


def _environment_value(option: Option, environ: Mapping[str, str], notices: list[str]) -> str:
    """What the environment says of a setting; empty if nothing."""
    name = env_name(option)
    raw = environ.get(name)
    if raw is not None and _LINK_VALUE.fullmatch(raw):
        notices.append(f"environment variable {name} is ignored: {raw} is a service's address, not a setting")
        return ""
    if raw == "":
        notices.append(f"environment variable {name} is empty and ignored")
    return raw or ""


def _unknown_variables(schema: list[Option], environ: Mapping[str, str]) -> list[str]:
    """Variables that look like a setting and are none: typing errors."""
    known = {env_name(option) for settings in COMMANDS.values() for option in options(settings)}
    candidates = [env_name(option) for option in schema if not option.file_only]
    found = []
    for name in sorted(environ):
        normalized = name.upper().replace("-", "_")
        if (
            not normalized.startswith("FASTTAIL_")
            or name in known | NON_SETTING_VARIABLES
            or _LINK_NAME.fullmatch(name)
        ):
            continue
        near = difflib.get_close_matches(normalized, candidates, 1, 0.8)
        found.append(
            f"environment variable {name} is not known" + (f" (did you mean {near[0]}?)" if near else "")
        )
    return found


def _resolve_paths(values: dict[str, Any], base: str | None) -> None:
    for dest, value in values.items():
        if base is None or not isinstance(value, Path) or value.is_absolute():
            continue
        if not base:
            raise ConfigError(
                f"{dest}: {value}: the current folder, to which this path is relative, cannot be found"
            )
        values[dest] = base / value


def _read_text(option: Option, raw: str, where: str) -> Any:
    try:
        return option.value_type.from_text(raw)
    except ExplainedValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    except ValueError:
        raise ConfigError(
            f"{where}: expected {option.value_type.expected}, got {_shown(raw, option)}"
        ) from None


def _read_file(
    path: Path, schema: list[Option], values: dict[str, Any], sources: dict[str, str], notices: list[str]
) -> None:
    content: dict[str, Any] = {}
    for key, value in file.read(path).items():
        name = key.replace("-", "_")
        if name in content:
            raise ConfigError(
                f"{file.key_location(path, name)}: {name} is given twice, "
                "with a hyphen and with an underscore"
            )
        content[name] = value
    _reject_unknown_keys(path, content)
    for option in schema:
        if option.dest in values or option.name not in content:
            continue
        value = content[option.name]
        try:
            values[option.dest] = option.value_type.from_file(value)
        except ValueError as error:
            what = str(error) or f"expected {option.value_type.expected}, got {_shown(value, option)}"
            raise ConfigError(f"{file.key_location(path, option.name)}: {option.name}: {what}") from None
        sources[option.name] = f"file {path}:{option.name}"
        if option.name == "symbols_config" and (unused := unused_keys(value or ())):
            notices.append(f"{path}: symbols_config: keys without effect: {', '.join(map(repr, unused))}")


def _reject_unknown_keys(path: Path, content: Mapping[str, Any]) -> None:
    known = {option.name for settings in COMMANDS.values() for option in options(settings)} - {"config"}
    unknown = [key for key in content if key not in known]
    shown = []
    for key in unknown:
        near = difflib.get_close_matches(key, known, 1)
        shown.append(repr(key) + (f" (did you mean {near[0]!r}?)" if near else ""))
    if shown:
        where = file.key_location(path, unknown[0])
        raise ConfigError(f"{where}: unknown setting{'s'[: len(shown) - 1]} {', '.join(shown)}")


def _shown(value: Any, option: Option) -> str:
    if option.value_type.secret:
        return "something else"
    # What a file's aliases stand for can be longer than memory.
    shown = str(value).lower() if isinstance(value, bool) else _REPR.repr(value)
    return shown if len(shown) <= 80 else shown[:80] + "..."


def format_settings(loaded: Settings) -> str:
    """Every setting of a command, its value, and where that came from; a line each."""
    rows = []
    for option in options(type(loaded)):
        value = getattr(loaded, option.dest)
        shown = "-" if value in (None, ()) else option.value_type.to_text(value)
        rows.append((option.name, shown, loaded.sources[option.name]))
    widths = [min(40, max(len(row[column]) for row in rows)) for column in (0, 1)]
    return "".join(f"{name:{widths[0]}}  {value:{widths[1]}}  {source}\n" for name, value, source in rows)


def describe_default(settings: type[Settings], option: Option) -> str:
    """The default as the help shows it; empty where there is none or the help itself says it."""
    field = next(field for field in dataclasses.fields(settings) if field.name == option.dest)
    if field.default is dataclasses.MISSING or field.default in (None, ()):
        return ""
    return option.value_type.to_text(field.default)
