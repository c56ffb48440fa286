"""Fills in a command's settings. The first that has a value counts:

    option (--port 9000)  >  environment (FASTTAIL_PORT=9000)  >  file (port = 9000)  >  default

An empty environment variable counts as not set. A file may hold the settings of all commands: those of other
commands are passed over, a key that no command knows is an error.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from fasttail.config import file
from fasttail.config.table import COMMANDS, ConfigError, Option, Settings, options

S = TypeVar("S", bound=Settings)


def flag(option: Option) -> str:
    """The option on the command line."""
    return "--" + option.name.replace("_", "-")


def variable(option: Option) -> str:
    """The environment variable."""
    return "FASTTAIL_" + option.name.upper()


def load(
    settings: type[S], given: Mapping[str, str | bool | None], environ: Mapping[str, str], **more: Any
) -> S:
    """The settings of a command; ConfigError for the first that is not as expected.

    `given` holds what the command line said, by `dest`: text as it was typed, or a bool for an option without
    a value. `more` are fields that are no settings (the files to parse); they are taken as they are.
    """
    table = options(settings)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for option in table:
        if (said := given.get(option.dest)) is not None:
            name = option.kind.metavar if option.positional else flag(option)
            values[option.dest] = said if isinstance(said, bool) else _read_text(option, said, name)
            sources[option.name] = "flag"
        elif not option.file_only and (said := environ.get(variable(option), "")):
            values[option.dest] = _read_text(option, said, f"environment variable {variable(option)}")
            sources[option.name] = f"env {variable(option)}"
    path = values.get("config")
    if path is not None:
        _read_file(path, table, values, sources)
    for option in table:
        sources.setdefault(option.name, "default")
    for option in table:
        if option.positional and option.dest not in values:
            raise ConfigError(
                f"no {option.kind.metavar} given (nor {variable(option)}, nor {option.name} in a file)"
            )
    loaded = settings(sources=sources, **values, **more)
    loaded.check()
    return loaded


def _read_text(option: Option, said: str, where: str) -> Any:
    try:
        return option.kind.from_text(said)
    except ValueError:
        raise ConfigError(f"{where}: expected {option.kind.expected}, got {_shown(said, option)}") from None


def _read_file(path: Path, table: list[Option], values: dict[str, Any], sources: dict[str, str]) -> None:
    content = {key.replace("-", "_"): value for key, value in file.read(path).items()}
    _refuse_unknown(path, content)
    for option in table:
        if option.dest in values or option.name not in content:
            continue
        value = content[option.name]
        try:
            values[option.dest] = option.kind.from_file(value)
        except ValueError as error:
            what = str(error) or f"expected {option.kind.expected}, got {_shown(value, option)}"
            raise ConfigError(f"{file.place(path, option.name)}: {option.name}: {what}") from None
        sources[option.name] = f"file {path}:{option.name}"


def _refuse_unknown(path: Path, content: Mapping[str, Any]) -> None:
    known = {option.name for settings in COMMANDS.values() for option in options(settings)} - {"config"}
    unknown = [key for key in content if key not in known]
    shown = []
    for key in unknown:
        near = difflib.get_close_matches(key, known, 1)
        shown.append(repr(key) + (f" (did you mean {near[0]!r}?)" if near else ""))
    if shown:
        where = file.place(path, unknown[0])
        raise ConfigError(f"{where}: unknown setting{'s'[: len(shown) - 1]} {', '.join(shown)}")


def _shown(value: Any, option: Option) -> str:
    if option.kind.secret:
        return "something else"
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return shown if len(shown) <= 80 else shown[:80] + "..."


def show(loaded: Settings) -> str:
    """Every setting of a command, its value, and where that came from; a line each."""
    rows = []
    for option in options(type(loaded)):
        value = getattr(loaded, option.dest)
        shown = "-" if value in (None, ()) else option.kind.show(value)
        rows.append((option.name, shown, loaded.sources[option.name]))
    widths = [min(40, max(len(row[column]) for row in rows)) for column in (0, 1)]
    return "".join(f"{name:{widths[0]}}  {value:{widths[1]}}  {source}\n" for name, value, source in rows)


def describe_default(settings: type[Settings], option: Option) -> str:
    """The default as the help shows it; empty where there is none or the help itself says it."""
    field = next(field for field in dataclasses.fields(settings) if field.name == option.dest)
    if field.default is dataclasses.MISSING or field.default in (None, ()):
        return ""
    return option.kind.show(field.default)
