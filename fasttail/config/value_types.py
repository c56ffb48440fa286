"""Parses setting values, from text (options, environment) and from the values of a file.

Each type describes what it expects, in the words of an error message, and raises ValueError for anything
else.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class ExplainedValueError(ValueError):
    """An invalid value whose error says more than what was expected."""


@dataclass(frozen=True)
class SymbolFilter:
    """Passes orders of `symbol` whose price × size is at least `min_liquidity`."""

    symbol: str
    min_liquidity: float


@dataclass(frozen=True)
class ValueType:
    """A type of values. `from_text` and `from_file` raise ValueError for anything but `expected`."""

    expected: str
    from_text: Callable[[str], Any]
    from_file: Callable[[Any], Any]
    metavar: str
    to_text: Callable[[Any], str] = str
    is_switch: bool = False  # an option without a value: --name, --no-name
    repeats: bool = False  # giving the option twice extends its list
    secret: bool = False  # invalid values are not shown


def integer(low: int, high: int = 1 << 53) -> ValueType:
    """A whole number from `low` to `high`."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    limits = f"of at least {low}" if high == 1 << 53 else f"from {low} to {high}"
    return ValueType(f"a whole number {limits}", lambda text: check(int(text)), check, "N")


def number(low: float = 0.0, metavar: str = "N", high: float = math.inf) -> ValueType:
    """A finite number of at least `low`, and at most `high`."""

    def check(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError
        if not math.isfinite(value) or not low <= value <= high:
            raise ValueError
        return float(value)

    limits = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
    return ValueType(f"a number {limits}", lambda text: check(float(text)), check, metavar, "{:g}".format)


def rate() -> ValueType:
    """A number above zero, or "max", which becomes None."""

    def check(value: Any) -> float | None:
        if value == "max":
            return None
        checked: float = positive.from_file(value)
        if checked <= 0:
            raise ValueError
        return checked

    positive = number()
    return ValueType(
        'a number above 0, or "max"',
        lambda text: None if text == "max" else check(float(text)),
        check,
        "LINES_PER_S|max",
        lambda value: "max" if value is None else f"{value:g}",
    )


def size(low: int = 1, high: int = 1 << 40) -> ValueType:
    """A size in bytes. Text may also use K, M or G (powers of 1024)."""

    def parse(text: str) -> int:
        match = re.fullmatch(r"([0-9]+)([KMG]?)(i?B)?", text.strip(), re.IGNORECASE)
        if match is None:
            raise ValueError
        return check(int(match[1]) * _UNITS[match[2].upper()])

    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError
        return value

    def from_file(value: Any) -> int:
        if isinstance(value, str):
            return parse(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError
        return check(value)

    limits = f" of at least {show_size(low)}" if low > 1 else ""
    return ValueType(f'a size{limits} in bytes or like "512K", "64M"', parse, from_file, "SIZE", show_size)


def show_size(value: int) -> str:
    """Return the shortest exact form, such as "512K" for 524288."""
    for unit in ("G", "M", "K"):
        if value and value % _UNITS[unit] == 0:
            return f"{value // _UNITS[unit]}{unit}"
    return str(value)


def boolean() -> ValueType:
    """A boolean. Text may be 1/0, true/false, yes/no or on/off."""
    names = {
        "1": True,
        "true": True,
        "yes": True,
        "on": True,
        "0": False,
        "false": False,
        "no": False,
        "off": False,
    }

    def parse(text: str) -> bool:
        try:
            return names[text.lower()]
        except KeyError:
            raise ValueError from None

    def check(value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value

    return ValueType(
        "true or false", parse, check, "", lambda value: "yes" if value else "no", is_switch=True
    )


def choice(*names: str) -> ValueType:
    """One of `names`."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise ValueError
        return value

    return ValueType("one of " + ", ".join(names), check, check, "|".join(names))


def text(what: str, metavar: str, pattern: str = r".*\S.*") -> ValueType:
    """Text that matches `pattern` in full."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
            raise ValueError
        return value

    return ValueType(what, check, check, metavar)


def address() -> ValueType:
    """A user's address, in lower case as the node writes it."""
    value_type = text("an address, 0x and 40 hexadecimal digits", "0x...", "0x[0-9a-fA-F]{40}")
    return dataclasses.replace(
        value_type,
        from_text=lambda value: value_type.from_text(value).lower(),
        from_file=lambda value: value_type.from_file(value).lower(),
    )


def path(what: str, metavar: str) -> ValueType:
    """A path, in which `~` is the home folder."""

    def check(value: Any) -> Path:
        if not isinstance(value, str) or not value or "\0" in value:
            raise ValueError
        try:
            return Path(value).expanduser()
        except RuntimeError:
            user = Path(value).parts[0]
            raise ExplainedValueError(f"{value!r}: {user} has no home folder") from None

    return ValueType(what, check, check, metavar)


def url() -> ValueType:
    """A web address. It may contain a secret, so only its scheme, host and port are ever shown."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or re.fullmatch(r"[!-~]+", value) is None:
            raise ValueError
        try:
            parts = urlsplit(value)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # bad brackets or port; the error's text quotes the URL
            good = False
        if not good:
            raise ValueError
        return value

    def to_text(value: str) -> str:
        parts = urlsplit(value)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.scheme}://{parts.hostname}{port}/..."

    return ValueType("a URL like https://example.com/path", check, check, "URL", to_text, secret=True)


def base_url() -> ValueType:
    """A server's base URL: scheme, host and port. Invalid values may contain a secret and are not shown."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or re.fullmatch(r"https?://[^\s/?#@]+/?", value) is None:
            raise ValueError
        parts = urlsplit(value)
        if not parts.hostname or parts.port == 0:
            raise ValueError
        return value.rstrip("/")

    return ValueType("a URL like http://127.0.0.1:8000", check, check, "URL", secret=True)


def nats_urls() -> ValueType:
    """The servers of a NATS cluster. They may contain a password, so only scheme, host and port are shown."""

    def read(word: str) -> str:
        if re.fullmatch(r"[!-~]+", word) is None:
            raise ValueError
        parts = urlsplit(word)
        if (
            parts.scheme not in ("nats", "tls")
            or not parts.hostname
            or parts.port == 0
            or parts.path not in ("", "/")
        ):
            raise ValueError
        return word

    def to_text(value: tuple[str, ...]) -> str:
        return ",".join(
            f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" for parts in map(urlsplit, value)
        )

    value_type = comma_list("URLs like nats://127.0.0.1:4222", "NATS_URL", read)
    return dataclasses.replace(value_type, to_text=to_text, secret=True)


def comma_list(what: str, metavar: str, read: Callable[[str], Any] = str) -> ValueType:
    """A list of words, separated by commas in text. An empty list is a filter that passes everything.

    `read` converts a word, and raises ValueError if it is invalid. Duplicates are dropped.
    """

    def parse(given: str) -> tuple[Any, ...]:
        found = [word.strip() for word in given.split(",") if word.strip()]
        if given.strip() and not found:
            raise ValueError  # only empty text, and not ",", passes everything
        return check(found)

    def check(value: Sequence[Any]) -> tuple[Any, ...]:
        if not all(isinstance(word, str) and word for word in value):
            raise ValueError
        return tuple(dict.fromkeys(read(word) for word in value))

    def from_file(value: Any) -> tuple[Any, ...]:
        if isinstance(value, str):
            return parse(value)
        if not isinstance(value, list):
            raise ValueError
        return check(value)

    def to_text(value: tuple[Any, ...]) -> str:
        return ",".join(map(str, value))

    return ValueType(f"{what}, separated by commas", parse, from_file, metavar, to_text, repeats=True)


def origins() -> ValueType:
    """Origins of web pages, as browsers send them."""

    def read(word: str) -> str:
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\s]+|null", word) is None:
            raise ValueError
        return word.lower()

    return comma_list("origins like https://example.com or http://localhost:3000", "ORIGIN,...", read)


def networks() -> ValueType:
    """IP addresses and networks of both versions."""

    def read(word: str) -> Network:
        return ipaddress.ip_network(word, strict=False)

    return comma_list("addresses or networks like 10.0.0.7 or 10.0.0.0/8", "NETWORK,...", read)


def symbols() -> ValueType:
    """`symbols_config`, in the form of the old service's settings file. See `unused_keys` for other keys."""

    def parse(given: str) -> tuple[SymbolFilter, ...]:
        raise ValueError

    def from_file(value: Any) -> tuple[SymbolFilter, ...]:
        if value is None:
            return ()
        if not isinstance(value, list):
            raise ValueError
        filters: dict[str, SymbolFilter] = {}
        for position, entry in enumerate(value):
            read = _parse_symbol_filter(position, entry)
            if filters.setdefault(read.symbol, read) != read:
                raise ValueError(
                    f"entry {position + 1}: {read.symbol} is listed twice, "
                    "with different values of min_liquidity"
                )
        return tuple(filters.values())

    expected = 'a list of entries like {"symbol": "BTC", "min_liquidity": 10000}'
    return ValueType(expected, parse, from_file, "", _show_symbols)


_SYMBOL_KEYS = ("symbol", "min_liquidity", "price_deviation")


def _closest_key(key: str) -> str:
    """Return the key that `key` probably means, or "" if it resembles none."""
    near = difflib.get_close_matches(key.lower().replace("-", "_"), _SYMBOL_KEYS, 1, 0.75)
    return near[0] if near else ""


def unused_keys(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the unknown keys of `symbols_config`, sorted."""
    return sorted({str(key) for entry in entries for key in entry if key not in _SYMBOL_KEYS})


def _show_symbols(filters: Sequence[SymbolFilter]) -> str:
    return ", ".join(f"{each.symbol} from {each.min_liquidity:g}" for each in filters)


def _parse_symbol_filter(position: int, entry: Any) -> SymbolFilter:
    where = f"entry {position + 1}"
    if not isinstance(entry, Mapping):
        raise ValueError(f'{where}: expected an entry like {{"symbol": "BTC", "min_liquidity": 10000}}')
    for key in entry:
        if key not in _SYMBOL_KEYS and (near := _closest_key(str(key))):
            raise ValueError(f"{where}: unknown key {key!r} (did you mean {near!r}?)")
    symbol = entry.get("symbol")
    if not isinstance(symbol, str) or not symbol or symbol != symbol.strip():
        raise ValueError(f'{where}: "symbol": expected a coin\'s name, got {symbol!r}')
    min_liquidity = entry.get("min_liquidity", 0)
    try:
        return SymbolFilter(symbol, number().from_file(min_liquidity))
    except ValueError:
        raise ValueError(
            f'{where}: "min_liquidity": expected a number of at least 0, got {min_liquidity!r}'
        ) from None
