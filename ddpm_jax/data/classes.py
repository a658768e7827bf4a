"""Classes: the order of their names, labels chosen by name, and labels that keep their meaning."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ddpm_jax.data.crops import CroppedSource
from ddpm_jax.data.source import Source, one_line
from ddpm_jax.errors import UserError, nearest
from ddpm_jax.typing import Batch

_SHOWN = 10
"""Classes that a line names; of more, it has the first ones and the last."""


NO_CLASS = "no class"
"""The name of the label of an example that has none."""


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the distinct names in their natural order, numbers in them by value: 2 before 10."""

    def key(name: str) -> list[tuple[str, int, str, str]]:
        # Each number with the text before it; equal numbers by how they are written: 1 before 01.
        return [
            (text, *_by_value(digits), digits)
            for text, digits in re.findall(r"([^0-9]*)([0-9]*)", name)
        ]

    return tuple(sorted(set(names), key=key))


def _by_value(digits: str) -> tuple[int, str]:
    """Returns a key that sorts numbers by value, and no number first; int() has a limit."""
    number = digits.lstrip("0") or digits[-1:]
    return len(number), number


def describe_classes(names: Sequence[str]) -> str:
    """Returns what each label means in one line: `0 = cat, 1 = dog`."""
    if _are_labels(names):
        return f"0 … {len(names) - 1}, named alike" if len(names) > 1 else "0, named alike"
    pairs = [f"{label} = {one_line(name)}" for label, name in enumerate(names)]
    return _shortened(pairs) + ("; a number is a class's name" if _are_numbers(names) else "")


def _shortened(words: Sequence[str]) -> str:
    return ", ".join(words if len(words) <= _SHOWN + 1 else [*words[:_SHOWN], "…", words[-1]])


def describe_labels(labels: np.ndarray, names: Sequence[str]) -> str:
    """Returns the classes of some labels by name: `the classes named cat, dog`."""
    chosen = [one_line([*names, NO_CLASS][label]) for label in dict.fromkeys(map(int, labels))]
    return f"the class{'es' if len(chosen) > 1 else ''} named {_shortened(chosen)}"


def find_labels(chosen: Any, names: Sequence[str], count: int) -> np.ndarray:
    """Returns the labels int32 `[N]` of classes that are given by name or number, one or several.

    A word or a Python number that is a class's name means this class. If no class has a number as
    its name, a number means the label itself. An array of whole numbers, as `Samples.labels` is,
    holds labels. "no class" is -1, unless a class has that name. `names` may be empty if they are
    not known; `count` is the number of classes. Raises UserError for a class that does not exist.
    """
    if getattr(getattr(chosen, "dtype", None), "kind", None) in ("i", "u") and np.ndim(chosen) == 1:
        wrong = [label for label in np.asarray(chosen).tolist() if not -1 <= label < count]
        if wrong:
            raise UserError(f"labels: there is no class {wrong[0]}; they are 0 … {count - 1}")
        return np.asarray(chosen, np.int32)
    single = isinstance(chosen, str) or np.ndim(chosen) == 0
    numbers = {NO_CLASS: -1} | {name: label for label, name in enumerate(names)}
    if not _are_numbers(names):
        numbers = {str(label): label for label in range(count)} | numbers
    found = []
    for word in [chosen] if single else chosen:
        if str(word) not in numbers:
            raise UserError(f"labels: there is no class {word}{_instead(str(word), names, count)}")
        found.append(numbers[str(word)])
    return np.asarray(found, np.int32)


def _instead(word: str, names: Sequence[str], count: int) -> str:
    if not names or _are_labels(names):
        return f"; they are 0 … {count - 1}"
    return nearest(word, list(names)) or f"; they are {_shortened([*map(one_line, names)])}"


def _are_labels(names: Sequence[str]) -> bool:
    """Whether each class is named as its label."""
    return len(names) > 0 and all(name == str(label) for label, name in enumerate(names))


def _are_numbers(names: Sequence[str]) -> bool:
    """Whether some class is named by a whole number, so that a number may mean a name."""
    return any(re.fullmatch(r"[+-]?[0-9]+", name) for name in names)


def with_classes(
    source: Source, names: Sequence[str], owner: str = "the run was trained on"
) -> Source:
    """Returns the source with its labels counted in `names`, which may be in another order.

    A source without labels is unchanged. Raises UserError if it has a class that is not in `names`;
    `owner` is how its message begins to say whose names they are.
    """
    own = source.class_names
    if not own or tuple(own) == tuple(names):
        return source
    foreign = [name for name in own if name not in names]
    if foreign:
        have = f"the data has a class {one_line(foreign[0])}"
        known = _shortened([*map(one_line, names)])
        raise UserError(f"data: {have}, and {owner} {known}; give data of these")
    if isinstance(source, CroppedSource):
        return CroppedSource(with_classes(source.larger, names, owner), source.size)
    return _Relabelled(source, names)


class _Relabelled:
    """A source whose labels are numbered by other class names."""

    def __init__(self, source: Source, names: Sequence[str]):
        self.source, self.class_names = source, tuple(names)
        self.streams, self.shape = source.streams, source.shape
        self._labels = np.array([names.index(name) for name in source.class_names], np.int32)

    def __len__(self) -> int:
        return len(self.source)

    def gather(self, indices: np.ndarray) -> Batch:
        batch = self.source.gather(indices)
        return batch._replace(labels=self._labels[np.asarray(batch.labels)])
