"""Numbers and bytes as a person reads them."""

from __future__ import annotations

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def human_bytes(count: float) -> str:
    """A size in decimal units.

    >>> human_bytes(0), human_bytes(999), human_bytes(6_291_456), human_bytes(999_999)
    ('0 B', '999 B', '6.3 MB', '1.0 MB')
    """
    if count < 1000:
        return f"{count:.0f} B"
    power = 0
    while round(count, 1) >= 1000 and power < len(UNITS) - 1:
        count, power = count / 1000, power + 1
    return f"{count:.1f} {UNITS[power]}"


def duration(seconds: float) -> str:
    """A time as hours, minutes and seconds, without leading zeros.

    >>> duration(7), duration(65), duration(3600)
    ('0:07', '1:05', '1:00:00')
    """
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def readable(data: bytes) -> str:
    """Bytes as text that is safe to print: what is no UTF-8 or steers a terminal is replaced."""
    text = data.decode("utf-8", errors="replace")
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
