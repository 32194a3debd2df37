"""Slurm's host lists: names → ``n[1-3,7]`` and back. Pure.

Rules:
- Folding is for people: names that differ in their last number stand together, in the order of
  their first.
- What is expanded is bounded by how many names there can be.
"""

from __future__ import annotations

from collections.abc import Iterable


def fold(names: Iterable[str]) -> str:
    """Return names as one host list."""
    groups: dict[tuple[str, int], list[int]] = {}
    order: dict[tuple[str, int], str] = {}
    for name in names:
        stem = name.rstrip("0123456789")
        digits = name[len(stem) :]
        plain = not digits or len(digits) > 9
        # Slurm writes n[08-11] with leading zeros; 8 and 08 are two hosts.
        width = len(digits) if digits.startswith("0") else 0
        key = (name, -1) if plain else (stem, width)
        order.setdefault(key, name)
        if not plain:
            groups.setdefault(key, []).append(int(digits))
    return ",".join(
        f"{key[0]}{_ranges(sorted(set(groups[key])), key[1])}" if key in groups else name
        for key, name in order.items()
    )


def _ranges(numbers: list[int], width: int) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    texts = [
        f"{first:0{width}d}" if first == last else f"{first:0{width}d}-{last:0{width}d}"
        for first, last in runs
    ]
    return texts[0] if len(numbers) == 1 else f"[{','.join(texts)}]"


def expand(text: str, most: int) -> tuple[str, ...]:
    """Return the names of a host list.

    Raises:
        ValueError: it is no host list, or has more than so many names.
    """
    found: list[str] = []
    for part in _parts(text):
        found += _expanded(part, most - len(found))
        if len(found) > most:
            raise ValueError(text)
    return tuple(found)


def _parts(text: str) -> list[str]:
    """Split at the commas that stand outside of brackets."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]] if text else []


def _expanded(part: str, most: int) -> list[str]:
    head, bracket, rest = part.partition("[")
    if not bracket:
        return [part]
    inside, closing, tail = rest.partition("]")
    if not closing:
        raise ValueError(part)
    names: list[str] = []
    for item in inside.split(","):
        first, dash, last = item.partition("-")
        if not dash:
            last = first
        if int(last) - int(first) > most:
            raise ValueError(part)
        names += [f"{head}{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)]
    tails = _expanded(tail, most) if "[" in tail else [tail]
    if len(names) * len(tails) > max(most, 1):
        raise ValueError(part)
    return [f"{name}{end}" for name in names for end in tails]
