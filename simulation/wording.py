"""Numbers as text: sensible digits, a unit at every one, and a dash where nothing is known."""

from __future__ import annotations

from collections.abc import Iterable

UNKNOWN = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
EXACTLY = "\N{PLUS-MINUS SIGN}"


def dice_text(value: float | None) -> str:
    """Dice, 0 to 1, three digits."""
    return UNKNOWN if value is None else f"{value:.3f}"


def gain_text(value: float | None, digits: int = 3) -> str:
    """A difference with its sign."""
    if value is None:
        return UNKNOWN
    rounded = round(value, digits)
    return f"{'+' if rounded > 0 else MINUS if rounded < 0 else EXACTLY}{abs(rounded):.{digits}f}"


def mm_text(value: float | None) -> str:
    """Millimetres, one digit."""
    return UNKNOWN if value is None else f"{value:.1f}"


def bytes_text(value: float) -> str:
    """Bytes in the decimal unit that leaves one to three digits before the point."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 1e3 * size else f"{value / size:,.0f} {unit}"
    return f"{value:.0f} B"


def seconds_text(value: float | None) -> str:
    """A duration: milliseconds, seconds, minutes or hours, whichever says it best."""
    if value is None:
        return UNKNOWN
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 119.5:
        return f"{value:.3g} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def field_text(tesla: float | None) -> str:
    """Field strength, or that nobody declared it."""
    return "not declared" if tesla is None else f"{tesla:g} T"


def count_text(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def names_text(names: Iterable[str]) -> str:
    """`a, b and c`."""
    known = list(names)
    return " and ".join([", ".join(known[:-1]), known[-1]] if len(known) > 1 else known)


def ascii_text(text: str) -> str:
    """Signs that a terminal may not have, replaced; a zero keeps no sign."""
    return text.translate({ord(MINUS): "-", ord(UNKNOWN): "-", ord(EXACTLY): " "})
