"""Reads a settings file as TOML, YAML or JSON, according to its extension."""

from __future__ import annotations

import importlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from fasttail.config.schema import ConfigError

MAX_BYTES = 1 << 20
"""Maximum size of a settings file, enough for about 10,000 symbols."""


def read(path: Path) -> dict[str, Any]:
    """Return the keys and values of a settings file.

    A duplicate key in a mapping is an error in all three formats, because it is unclear which value counts.
    Raises ConfigError, which names the file, if it cannot be read.
    """
    suffix = path.suffix.lower()
    parse = {".toml": _toml, ".json": _json, ".yaml": _yaml, ".yml": _yaml}.get(suffix)
    if parse is None:
        raise ConfigError(f"{path}: expected a file that ends in .toml, .yaml, .yml or .json")
    try:
        content = parse(_read_text(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid {suffix[1:].upper()}: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path}: expected settings by name, such as port = 8000")
    return content


def _read_text(path: Path) -> str:
    # Without O_NONBLOCK, opening a named pipe would block.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            is_folder = stat.S_ISDIR(os.fstat(file.fileno()).st_mode)
            raise ConfigError(f"{path}: {'Is a directory' if is_folder else 'not a regular file'}")
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: longer than {MAX_BYTES >> 20} MB, too long for a file of settings")
    return data.decode("utf-8-sig")


def key_location(path: Path, key: str) -> str:
    """Return the file and, if it can be found, the line of a key, for an error message."""
    pattern = "".join("[-_]" if char == "_" else re.escape(char) for char in key)
    found = re.search(rf"""^[\s{{,]*["']?{pattern}["']?\s*[=:]""", _read_text(path), re.MULTILINE)
    return f"{path}, line {found.string.count(chr(10), 0, found.end()) + 1}" if found else str(path)


def _toml(text: str) -> Any:
    import tomllib  # imported late, because few starts need it

    return tomllib.loads(text)


def _json(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_reject_duplicates)


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is given twice")
        found[key] = value
    return found


def _yaml(text: str) -> Any:
    # Imported late as above; it costs more than the rest of a start.
    yaml = importlib.import_module("yaml")
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _check_nodes(yaml, root)
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        # The error's text quotes the file, which may contain a secret.
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = _where(mark) if mark is not None else ""
        raise ValueError(f"{problem or type(error).__name__}{where}") from None


def _check_nodes(yaml: Any, root: Any) -> None:
    """Raise ValueError for what YAML 1.1 would misread or silently drop."""
    seen, waiting = set(), [root]
    while waiting:
        node = waiting.pop()
        if id(node) in seen:  # an alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            keys: dict[str, Any] = {}
            for key, value in node.value:
                if key.tag == "tag:yaml.org,2002:merge":
                    raise ValueError(f"merge keys (<<) are not supported{_where(key.start_mark)}")
                first = keys.setdefault(key.value, key) if isinstance(key, yaml.ScalarNode) else key
                if first is not key:
                    line = f"line {first.start_mark.line + 1}"
                    raise ValueError(
                        f"the key {key.value!r} is given twice, first in {line}{_where(key.start_mark)}"
                    )
                waiting += (key, value)
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif node.tag.endswith((":int", ":float")) and re.match(r"[-+]?(?:0[0-9_]|.*:)", node.value):
            # 0123 would be read as 83, and 1:30 as 90.
            raise ValueError(f"{node.value} is not a plain number{_where(node.start_mark)}")


def _where(mark: Any) -> str:
    return f" (at line {mark.line + 1}, column {mark.column + 1})"
