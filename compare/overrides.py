"""What a search may vary, as one types it, and a Config with other values.

    lr=1e-3:1:log                        a range, evenly in its logarithm; without :log evenly
    batch_size=32:128                    whole numbers, as both ends are
    batch_size=32,64,128                 one of these
    optimizer=nesterov,adamw             words need no quotes
    model_args.hidden=[256],[512,512]    lists do need brackets
    optimizer_args.weight_decay=1e-5:1e-2:log

A name is a field of :class:`compare.config.Config`, or one of the arguments that such a field holds.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from compare.config import Config
from compare.errors import UserError

ARGUMENTS = ("model_args", "optimizer_args", "schedule_args", "loss_args")  # fields that hold arguments by name
NAMES = (  # the others decide what is asked, not how well it is answered
    "augment batch_size accumulate ema loss optimizer schedule lr patience keep_best precision"
).split()


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included."""

    name: str
    low: float
    high: float
    log: bool = False

    def suggested(self, trial: Any) -> Any:
        """A value for an Optuna trial."""
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        suggest = trial.suggest_int if whole else trial.suggest_float
        return suggest(self.name, self.low, self.high, log=self.log)

    def value(self, suggested: Any) -> Any:
        """The value behind what Optuna knows it by: itself."""
        return suggested

    def single(self) -> Any:
        """The only value: there are many."""
        raise UserError(f"{self.name} takes one value, and {self.low:g} to {self.high:g} is a range")


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several values."""

    name: str
    values: tuple[Any, ...]

    @property
    def labels(self) -> dict[Any, Any]:
        """What Optuna knows the values by, as it can store no lists: their text."""
        return {json.dumps(each) if isinstance(each, list | dict) else each: each for each in self.values}

    def suggested(self, trial: Any) -> Any:
        """A value for an Optuna trial."""
        return self.value(trial.suggest_categorical(self.name, list(self.labels)))

    def value(self, suggested: Any) -> Any:
        """The value behind what Optuna knows it by."""
        return self.labels[suggested]

    def single(self) -> Any:
        """The only value; UserError if there are several."""
        if len(self.values) > 1:
            raise UserError(f"{self.name} takes one value, and {len(self.values)} are given")
        return self.values[0]


Field = Range | Choice


def parse(texts: Sequence[str]) -> dict[str, Field]:
    """The fields that these texts name; UserError for what cannot be read."""
    fields: dict[str, Field] = {}
    for text in texts:
        name, equals, words = text.partition("=")
        if not (name and equals and words):
            raise UserError(f"{text!r} varies nothing: it is NAME=VALUES, like lr=1e-3:1:log or batch_size=32,64,128")
        if name in fields:
            raise UserError(f"{name} is given twice: {text!r} is the second")
        fields[name] = _range(name, words) or _choice(name, words)
    return fields


def _range(name: str, words: str) -> Range | None:
    """``LOW:HIGH``, and perhaps ``:log``; None if it is something else."""
    parts = words.split(":")
    log = parts[-1] == "log"
    ends = parts[:-1] if log else parts
    if words[0] in '[{"' or (len(ends) < 2 and not log):
        return None
    try:
        low, high = (_number(end) for end in ends)
    except ValueError as error:
        raise UserError(f"{name}={words} is no range: it is LOW:HIGH or LOW:HIGH:log, like lr=1e-3:1:log") from error
    if not low < high:
        raise UserError(f"{name}={words}: {low:g} is not below {high:g}")
    if log and low <= 0:
        raise UserError(f"{name}={words}: a logarithm needs numbers above 0, and {low:g} is not")
    return Range(name, low, high, log)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        value = float(text)
        if not math.isfinite(value):
            raise
        return value


def _choice(name: str, words: str) -> Choice:
    """JSON values with commas between them, or else plain words."""
    try:
        values = json.loads(f"[{words}]")
    except json.JSONDecodeError as error:
        values = [word.strip() for word in words.split(",")]
        if set(words) & set('[]{}"') or not all(values):
            raise UserError(
                f"{name}={words}: {error.msg}; values have commas between them, lists have [brackets]"
            ) from error
    return Choice(name, tuple(values))


# --- what is known, and what follows ----------------------------------------------------------------------------------


def replaced(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with these values; ``model_args.hidden`` is the argument ``hidden`` of its network."""
    whole = {name: value for name, value in values.items() if "." not in name}
    for name, value in values.items():
        if "." in name:
            field, argument = name.split(".")
            whole[field] = {**whole.get(field, getattr(config, field)), argument: value}
    if "augment" in whole:
        whole["augment"] = tuple(whole["augment"])
    return dataclasses.replace(config, **whole)


def require_known(fields: Mapping[str, Field], config: Config) -> None:
    """Raise UserError for a name that the config, or what takes it, does not have, or a value it cannot have.

    An argument of the optimizer has to be one of every optimizer that is tried; so for schedule and loss.
    """
    for name, field in fields.items():
        group, dot, argument = name.partition(".")
        if dot and group in ARGUMENTS and "." not in argument:
            taker = group.removesuffix("_args")
            varied = fields.get(taker)
            for each in varied.values if isinstance(varied, Choice) else [getattr(config, taker)]:
                _require(argument, _arguments_of(taker, each), f"argument of {each}")
            continue
        _require(name, [*NAMES, *(f"{each}.NAME" for each in ARGUMENTS)], "field")
        for value in (field.low, field.high) if isinstance(field, Range) else field.values:
            _require_fit(name, value, getattr(config, name))


def _arguments_of(taker: str, name: str) -> list[str]:
    """What a model, optimizer, schedule or loss of this name may be given; for an unknown name nothing is known."""
    from numpy_nn import losses, models, optim

    if taker == "model":
        return list(inspect.signature(models.MODELS[name]).parameters)
    tables: dict[str, Any] = {"optimizer": optim.OPTIMIZERS, "schedule": optim.SCHEDULES, "loss": losses.LOSSES}
    _require(name, list(tables[taker]), taker)
    found = tables[taker][name]
    parameters = inspect.signature(found[0] if isinstance(found, tuple) else found).parameters.values()
    constants = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    common = ["weight_decay", "clip_norm"] if taker == "optimizer" else []
    return common + [each for each in constants if each not in ("lr", "steps", "t")]


def _require_fit(name: str, value: Any, now: Any) -> None:
    """Could the value stand where ``now`` does? Where nothing stands, anything could."""
    from numpy_nn import losses, optim

    tables = {"optimizer": list(optim.OPTIMIZERS), "schedule": list(optim.SCHEDULES), "loss": list(losses.LOSSES)}
    kinds: dict[type, Any] = {float: int | float, tuple: list}
    if name in tables:
        _require(value, tables[name], name)
    elif now is not None and not (
        isinstance(value, kinds.get(type(now), type(now))) and isinstance(value, bool) == isinstance(now, bool)
    ):
        raise UserError(f"{name}={value!r}: it is {type(value).__name__}, and should be like {now!r}")


def _require(name: Any, known: Sequence[str], what: str) -> None:
    if name not in known:
        raise UserError(f"unknown {what} {name!r}; known: {', '.join(known)}")
