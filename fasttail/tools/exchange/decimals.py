"""Amounts and prices as integers scaled by 10^8, and their text as the node writes it."""

from __future__ import annotations

SCALE = 100_000_000
_MAX_TEXTS = 400_000


def decimal_text(value: int) -> str:
    """Return a scaled integer as the node writes it: at least one decimal, no trailing zeros."""
    if value < 0:
        return f"-{decimal_text(-value)}"
    whole, fraction = divmod(value, SCALE)
    return f"{whole}.{fraction:08d}".rstrip("0") if fraction else f"{whole}.0"


def scaled(value: float) -> int:
    """Return a number scaled by 10^8, rounded."""
    return round(value * SCALE)


def product(first: int, second: int) -> int:
    """Return the product of two scaled integers, scaled, rounded toward minus infinity."""
    return first * second // SCALE


class DecimalTexts(dict[int, str]):
    """Maps scaled integers to texts, and keeps up to 400,000 of them. Reading makes a missing one."""

    def __missing__(self, value: int) -> str:
        if len(self) >= _MAX_TEXTS:
            self.clear()
        text = self[value] = decimal_text(value)
        return text
