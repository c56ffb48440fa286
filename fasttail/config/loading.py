"""Loads a command's settings, in this order of precedence:

    option (--port 9000)  >  environment (FASTTAIL_PORT=9000)  >  file (port = 9000)  >  default

Empty environment variables count as not set. So do those that an orchestrator derives from a service's name:
Kubernetes sets FASTTAIL_PORT=tcp://… for a Service called "fasttail". A file may hold the settings of all
commands, but unknown keys are errors. The settings' `notices` list everything that has no effect.
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
        *(
            "BIND",
            "BUILD",
            "CPUS",
            "DOCKER",
            "ENGINE",
            "IMAGE",
            "ISA",
            "KILLS",
            "MEMORY",
            "NATS_KILLS",
            "NEED_BROWSER",
            "NEED_NATS",
        ),
        *(
            "NEED_PROMTOOL",
            "NEED_PROXIES",
            "NEED_SDKS",
            "NEED_SYSTEMD",
            "PUBLISH",
            "REAL_DATA",
            "RESTART",
            "SEED",
            "SOURCES",
        ),
        *("STRICT_BUILD", "TAG", "TAKE_PICTURES", "TOKEN", "WITHOUT_REAL_DATA"),
    )
)
"""FASTTAIL_ variables that are not settings and are read elsewhere; see docs/configuration.md."""

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 500

# Set by Kubernetes for a Service, or by Docker for a linked container, whose name begins with "fasttail".
_LINK_VALUE = re.compile(r"(?:tcp|udp|sctp)://\S+:[0-9]+")
_LINK_NAME = re.compile(
    r"FASTTAIL_(?:\w+_)??(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)\w*)?|NAME|ENV_\w+)"
)


def flag(option: Option) -> str:
    """Return the option's name on the command line."""
    return "--" + option.name.replace("_", "-")


def env_name(option: Option) -> str:
    """Return the name of the option's environment variable."""
    return "FASTTAIL_" + option.name.upper()


def load(
    settings: type[S],
    given: Mapping[str, str | bool | None],
    environ: Mapping[str, str],
    *,
    base: str | None = None,
    **extra: Any,
) -> S:
    """Load the settings of a command. Raises ConfigError for the first invalid value.

    given: values from the command line by `dest`: text as typed, or a bool for a switch.
    base:  folder to which relative paths refer, so that they keep their meaning for the life of the process;
           "" if it no longer exists, None to leave relative paths unchanged.
    extra: fields that are not settings (the files to parse), passed through.
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
    """Return the setting's value in the environment, or "" if there is none."""
    name = env_name(option)
    raw = environ.get(name)
    if raw is not None and _LINK_VALUE.fullmatch(raw):
        notices.append(f"environment variable {name} is ignored: {raw} is a service's address, not a setting")
        return ""
    if raw == "":
        notices.append(f"environment variable {name} is empty and ignored")
    return raw or ""


def _unknown_variables(schema: list[Option], environ: Mapping[str, str]) -> list[str]:
    """Return a notice for each unknown FASTTAIL_ variable, which is probably a typing error."""
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
    # YAML aliases can expand to more text than fits into memory.
    shown = str(value).lower() if isinstance(value, bool) else _REPR.repr(value)
    return shown if len(shown) <= 80 else shown[:80] + "..."


def format_settings(loaded: Settings) -> str:
    """Format each setting of a command with its value and source, one per line."""
    rows = []
    for option in options(type(loaded)):
        value = getattr(loaded, option.dest)
        shown = "-" if value in (None, ()) else option.value_type.to_text(value)
        rows.append((option.name, shown, loaded.sources[option.name]))
    widths = [min(40, max(len(row[column]) for row in rows)) for column in (0, 1)]
    return "".join(f"{name:{widths[0]}}  {value:{widths[1]}}  {source}\n" for name, value, source in rows)


def describe_default(settings: type[Settings], option: Option) -> str:
    """Return the default as shown in the help, or "" if there is none or the help text states it."""
    field = next(field for field in dataclasses.fields(settings) if field.name == option.dest)
    if field.default is dataclasses.MISSING or field.default in (None, ()):
        return ""
    return option.value_type.to_text(field.default)
