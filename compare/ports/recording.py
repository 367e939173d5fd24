"""What one side computed: every intermediate value with the line that made it, and every gradient.

Arrays larger than 64 KB go to a temporary file, so that a recording needs little memory whatever the network.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from compare.ports.frames import Frame

IN_MEMORY = 2**16  # bytes of an array that is not worth a trip to the disk
HUGE = 1e150  # the square of a larger number overflows; a mask adds such a number where another adds -inf
Load = Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """Statistics of an array that do not depend on the order of its elements: equal arrays have equal summaries.

    They are those of its finite elements: a mask adds -inf to the scores that a softmax must ignore.
    """

    size: int
    norm: float = 0.0  # ‖x‖₂
    absolute: float = 0.0  # Σ|x|
    total: float = 0.0  # Σx
    high: float = 0.0
    low: float = 0.0
    infinities: tuple[int, int] = (0, 0)  # elements that are +inf and -inf
    nans: int = 0

    @classmethod
    def of(cls, x: np.ndarray) -> Summary:
        """Summarise an array; an empty one is all zeros."""
        flat = x.ravel()
        infinities, nans = (0, 0), 0
        if not np.isfinite(flat).all():
            infinities, nans = (int(np.isposinf(flat).sum()), int(np.isneginf(flat).sum())), int(np.isnan(flat).sum())
            flat = flat[np.isfinite(flat)]
        if flat.size == 0:
            return cls(x.size, infinities=infinities, nans=nans)
        with np.errstate(over="ignore"):
            norm, absolute, total = float(np.sqrt(flat @ flat)), float(np.abs(flat).sum()), float(flat.sum())
        return cls(x.size, norm, absolute, total, float(flat.max()), float(flat.min()), infinities, nans)

    def near(self, other: Summary, tolerance: float, floor: float = 0.0) -> bool:
        """Could the two arrays be equal up to the order of their elements, within a relative tolerance?

        If ‖a - b‖ <= ε‖b‖, then no element differs by more than ε‖b‖, no norm either, and no sum by more than ε√n‖b‖.
        """
        slack = tolerance * max(self.norm, other.norm) + floor * self.size**0.5
        return (
            (self.size, self.infinities, self.nans) == (other.size, other.infinities, other.nans)
            and abs(self.norm - other.norm) <= slack
            and abs(self.absolute - other.absolute) <= slack * self.size**0.5
            and abs(self.total - other.total) <= slack * self.size**0.5
            and abs(self.high - other.high) <= slack
            and abs(self.low - other.low) <= slack
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """One array: its summary, and a function that brings it back in float64."""

    summary: Summary
    shape: tuple[int, ...]
    load: Load

    @property
    def finite(self) -> bool:
        """Whether no element is infinite or NaN."""
        return self.summary.infinities == (0, 0) and not self.summary.nans


class Store:
    """Arrays in a temporary file, which disappears when the store is closed: use it in a ``with`` statement."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile()  # noqa: SIM115, closed by __exit__

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def put(self, array: Any) -> Stored:
        """Keep a copy of the array in float64; complex numbers become pairs, numbers above ``HUGE`` infinities."""
        x = np.asarray(array)
        if np.iscomplexobj(x):
            x = np.stack([x.real, x.imag], axis=-1)
        x = np.array(x, np.float64, order="C")
        huge = (x > HUGE) | (x < -HUGE)
        if huge.any():
            x[huge] = np.copysign(np.inf, x[huge])
        summary, shape = Summary.of(x), x.shape
        if x.nbytes <= IN_MEMORY:
            return Stored(summary, shape, lambda: x)
        offset = self.file.seek(0, 2)
        self.file.write(x.tobytes())
        return Stored(summary, shape, lambda: self._read(offset, shape))

    def _read(self, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        self.file.flush()
        self.file.seek(offset)
        count = int(np.prod(shape))
        return np.frombuffer(self.file.read(8 * count), np.float64).reshape(shape)


class Arrays(Mapping[str, np.ndarray | None]):
    """Arrays by name, in a store until they are read; None stands for no array."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.stored: dict[str, Stored | None] = {}

    def __setitem__(self, name: str, array: Any) -> None:
        self.stored[name] = None if array is None else self.store.put(array)

    def __getitem__(self, name: str) -> np.ndarray | None:
        stored = self.stored[name]
        return None if stored is None else stored.load()

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


class NoStore(Store):
    """Keeps shapes only, for who wants to know what is made of what."""

    def __init__(self) -> None:
        pass

    def put(self, array: Any) -> Stored:
        """Note the shape."""
        return Stored(Summary(0), np.shape(array), lambda: np.zeros(0))


def release() -> None:
    """Give unused memory back to the system: the collector frees autograd graphs, and glibc keeps what is freed."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


@dataclasses.dataclass(slots=True)
class Value:
    """One array that was computed: by which operation, on which line, from which other values."""

    id: int
    op: str
    frames: tuple[Frame, ...]  # the user's own, innermost first
    path: str  # of the module, "" where there is none
    inputs: tuple[int, ...]
    stored: Stored
    dtype: str = "float64"
    random: bool = False
    backward: bool = False  # a line of a backward pass written by hand
    inner: bool = False  # a step inside a fused operation, or inside one with its own gradient
    rule: Frame | None = None  # where the gradient of this operation is defined, if the user defined it

    @property
    def line(self) -> tuple[object, ...]:
        """What tells its line from others: the frames; the module where no line of the user's made it."""
        return self.frames or (self.path or self.id,)

    @property
    def where(self) -> str:
        """``file.py:41``, or the operation where no line of the user's made it."""
        return str(self.frames[0]) if self.frames else self.op


@dataclasses.dataclass(frozen=True, slots=True)
class Edge:
    """What one consumer contributed to the gradient of one of its inputs."""

    consumer: int
    value: int
    stored: Stored


class Recording:
    """Values in the order in which they were made; outputs, parameters and gradients among them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.values: list[Value] = []
        self.inputs: list[int] = []
        self.outputs: dict[str, int] = {}
        self.parameters: dict[str, int] = {}  # by leaf
        self.totals: dict[int, Stored] = {}  # gradient of a value
        self.edges: list[Edge] = []
        self.gradients = Arrays(store)  # by leaf; None: nothing reached it
        self.made_gradients: dict[str, int] = {}  # the same as values of a backward pass written by hand
        self.statistics: dict[str, np.ndarray] = {}  # running statistics after a step in training mode
        self.notes: list[str] = []

    def add(self, op: str, array: Any, *, inputs: Iterable[int] = (), **more: Any) -> int:
        """Record a value; returns its id."""
        number = len(self.values)
        more.setdefault("frames", ())
        more.setdefault("path", "")
        known = tuple(dict.fromkeys(i for i in inputs if i is not None))
        self.values.append(Value(number, op, inputs=known, stored=self.store.put(array), **more))
        return number

    def array(self, number: int) -> np.ndarray:
        """The value with this id."""
        return self.values[number].stored.load()

    def consumers(self) -> dict[int, list[int]]:
        """For each value the ids of those computed from it."""
        found: dict[int, list[int]] = {value.id: [] for value in self.values}
        for value in self.values:
            for source in value.inputs:
                found[source].append(value.id)
        return found

    def first_gradient_not_finite(self) -> Value | None:
        """The operation that made the first NaN or infinity of the backward pass out of finite gradients."""
        bad = {number for number, total in self.totals.items() if not total.finite}
        by_hand = {value.id for value in self.values if value.backward and not value.stored.finite}
        made = (e.consumer for e in self.edges if not e.stored.finite and e.consumer not in bad)
        number = max(made, default=None)
        if number is None:
            number = min((i for i in by_hand if by_hand.isdisjoint(self.values[i].inputs)), default=None)
        return None if number is None else self.values[number]

    def first_not_finite(self, twins: Collection[int] = ()) -> Value | None:
        """The value that made the first NaN or infinity; one that has a twin, such as a mask's -inf, is no fault."""
        bad = {value.id for value in self.values if not value.stored.finite and value.id not in twins}
        return next((value for value in self.values if value.id in bad and bad.isdisjoint(value.inputs)), None)
