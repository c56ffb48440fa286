"""Reads a file of settings: TOML, YAML or JSON, told apart by the name's ending."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

from fasttail.config.table import ConfigError


def read(path: Path) -> dict[str, Any]:
    """The file's keys and values; ConfigError, naming the file, if it cannot be read."""
    ending = path.suffix.lower()
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if ending == ".toml":
            content = _toml(text)
        elif ending == ".json":
            content = json.loads(text)
        elif ending in (".yaml", ".yml"):
            content = _yaml(text)
        else:
            raise ConfigError(f"{path}: expected a file that ends in .toml, .yaml, .yml or .json")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid {ending[1:].upper()}: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path}: expected settings by name, such as port = 8000")
    return content


def place(path: Path, key: str) -> str:
    """Where a key stands, for an error message: the file and, if it can be told, the line."""
    pattern = "".join("[-_]" if char == "_" else re.escape(char) for char in key)
    found = re.search(rf"""^[\s{{,]*["']?{pattern}["']?\s*[=:]""", path.read_text("utf-8-sig"), re.MULTILINE)
    return f"{path}, line {found.string.count(chr(10), 0, found.end()) + 1}" if found else str(path)


def _toml(text: str) -> Any:
    import tomllib  # only here: few have a file, and every start would pay for it

    return tomllib.loads(text)


def _yaml(text: str) -> Any:
    # As above; it costs more than all the rest of a start.
    yaml = importlib.import_module("yaml")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        # Its text quotes the file, which may hold a secret.
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f" (at line {mark.line + 1}, column {mark.column + 1})" if mark is not None else ""
        raise ValueError(f"{problem or type(error).__name__}{where}") from None
