"""Parses NAME=VALUES for searches and --set, and replaces values of a Config.

    lr=1e-3:1:log                        a range, sampled uniformly in log space; without :log linearly
    batch_size=32:128                    a range of integers, because both ends are integers
    batch_size=32,64,128                 choices
    optimizer=nesterov,adamw             choices of words, without quotes
    model_args.hidden=[256],[512,512]    lists need brackets
    optimizer_args.weight_decay=1e-5:1e-2:log

A name is a field of :class:`compare.config.Config`, or one of the arguments that such a field holds.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from compare import tracks
from compare.cli import ALIASES
from compare.config import SETTINGS, Config, kinds
from compare.errors import UserError, look_up, require_valid, suggestion

HOLDERS = tuple(name for name, setting in SETTINGS.items() if setting.arguments is not None)  # model_args, ...


@dataclasses.dataclass(frozen=True)
class Range:
    """A range of numbers, both ends included."""

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
        """Return the value of an Optuna parameter, which is the value itself."""
        return suggested

    def single(self) -> Any:
        """Raise UserError: a range has no single value."""
        raise UserError(f"{self.name} takes one value, not a range ({self.low:g} to {self.high:g})")


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several values."""

    name: str
    values: tuple[Any, ...]

    @property
    def labels(self) -> dict[Any, Any]:
        """Return the values as text, because Optuna cannot store lists."""
        return {json.dumps(each) if isinstance(each, list | dict) else each: each for each in self.values}

    def suggested(self, trial: Any) -> Any:
        """A value for an Optuna trial."""
        return self.value(trial.suggest_categorical(self.name, list(self.labels)))

    def value(self, suggested: Any) -> Any:
        """Return the value of an Optuna parameter."""
        return self.labels[suggested]

    def single(self) -> Any:
        """Return the single value; UserError if there are several."""
        if len(self.values) > 1:
            raise UserError(f"{self.name} takes one value, not {len(self.values)}")
        return self.values[0]


Field = Range | Choice


def parse(texts: Sequence[str]) -> dict[str, Field]:
    """Parse NAME=VALUES texts; UserError if one is invalid."""
    fields: dict[str, Field] = {}
    for text in texts:
        name, equals, words = text.partition("=")
        if not (name and equals and words):
            raise UserError(
                f"invalid setting {text!r}: expected NAME=VALUES, like lr=1e-3:1:log or batch_size=32,64,128"
            )
        if name in fields:
            raise UserError(f"{name} is given twice, the second time as {text!r}")
        fields[name] = _range(name, words) or _choice(name, words)
    return fields


def _range(name: str, words: str) -> Range | None:
    """Parse ``LOW:HIGH`` or ``LOW:HIGH:log``; None for other text."""
    parts = words.split(":")
    log = parts[-1] == "log"
    ends = parts[:-1] if log else parts
    if words[0] in '[{"' or (len(ends) < 2 and not log):
        return None
    try:
        low, high = (_number(end) for end in ends)
    except ValueError as error:
        raise UserError(
            f"invalid range {name}={words}: expected LOW:HIGH or LOW:HIGH:log, like lr=1e-3:1:log"
        ) from error
    if not low < high:
        raise UserError(f"invalid range {name}={words}: {low:g} is not below {high:g}")
    if log and low <= 0:
        raise UserError(f"invalid range {name}={words}: a logarithmic range must be above 0")
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
    """Parse comma-separated JSON values or plain words."""
    try:
        values = json.loads(f"[{words}]")
    except json.JSONDecodeError as error:
        values = [word.strip() for word in words.split(",")]
        if set(words) & set('[]{}"') or not all(values):
            raise UserError(
                f"{name}={words}: {error.msg}; separate values by commas, and put lists in [brackets]"
            ) from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        raise UserError(f"invalid {name} {words[:20]}...: {error}") from error
    return Choice(name, tuple(ALIASES.get(value, value) if isinstance(value, str) else value for value in values))


# --- what a config may hold -------------------------------------------------------------------------------------------


def replaced(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with these values; ``model_args.hidden`` is the argument ``hidden`` of its network."""
    whole = {name: value for name, value in values.items() if "." not in name}
    for name, value in values.items():
        if "." in name:
            field, argument = name.split(".")
            whole[field] = {**whole.get(field, getattr(config, field)), argument: value}
    if isinstance(whole.get("augment"), list):
        whole["augment"] = tuple(whole["augment"])
    return dataclasses.replace(config, **whole)


def fitted(config: Config) -> Config:
    """The config with a network for the images of its dataset, and one line about it, if that is the user's arrays."""
    from compare.data import load
    from compare.data.arrays import is_arrays

    if not is_arrays(config.dataset):
        return config
    data = load(config.dataset, val_size=config.val_size, seed=config.seed)
    print(data.describe())
    fit = {"input_shape": data.train_x.shape[1:], "classes": len(data.classes)}
    return dataclasses.replace(config, model_args={**config.model_args, **fit}, expected="")


def require_known(fields: Mapping[str, Field], config: Config) -> None:
    """Raise UserError for a name that the config, or what takes it, does not have, or a value it cannot have.

    An argument of the optimizer has to be one of every optimizer that is tried; so for schedule and loss.
    """
    for name, field in fields.items():
        values = (field.low, field.high) if isinstance(field, Range) else field.values
        group, dot, argument = name.partition(".")
        if dot and group in HOLDERS and "." not in argument:
            taker = group.removesuffix("_args")
            varied = fields.get(taker)
            for each in varied.values if isinstance(varied, Choice) else [getattr(config, taker)]:
                for value in values:
                    _require_argument(taker, each, argument, value)
            continue
        known = [each for each, setting in SETTINGS.items() if setting.search]
        if name not in known:
            close = suggestion(name, known)
            raise UserError(
                f"unknown field {name!r}.{close} Known: {', '.join([*known, *(f'{h}.NAME' for h in HOLDERS)])}"
            )
        for value in values:
            require_valid(name, value, kinds()[name], SETTINGS[name].valid)
            if f"{name}_args" in HOLDERS:
                look_up(name, value, _table(name))


def require_arguments(config: Config) -> None:
    """Raise UserError unless network, optimizer, schedule, loss and augmentations exist and take their arguments.

    The Config itself checks every other field when it is made.
    """
    from compare import networks
    from compare.data.augment import parse

    for holder in HOLDERS:
        taker = holder.removesuffix("_args")
        name = getattr(config, taker)
        _taker(taker, name)
        for argument, value in getattr(config, holder).items():
            _require_argument(taker, name, argument, value)
    try:
        if networks.is_file(config.model):
            networks.require_same_network(config)
        else:
            _taker("model", config.model)(**config.model_args)
    except (ValueError, TypeError) as error:
        raise UserError(f"invalid model_args of {config.model}: {error}") from error
    parse(config.augment)


def _table(taker: str) -> Mapping[str, Any]:
    """The models, optimizers, schedules or losses by name."""
    from numpy_nn import losses, models, optim

    tables = {"model": models.MODELS, "optimizer": optim.OPTIMIZERS, "schedule": optim.SCHEDULES, "loss": losses.LOSSES}
    return tables[taker]


def _taker(taker: str, name: str) -> Any:
    """The model, optimizer, schedule or loss of this name; UserError if there is none."""
    from compare import networks

    if taker == "model" and networks.is_file(name):
        return next(iter(networks.classes_of(name).values()))
    return look_up(taker, name, _table(taker))


def _require_argument(taker: str, name: str, argument: str, value: Any) -> None:
    """Raise UserError unless the model, optimizer, ... of this name has such an argument, which may have this value."""
    kinds, setting = _arguments_of(taker, name), SETTINGS[f"{taker}_args"]
    if argument not in kinds:
        known = f"Known: {', '.join(kinds)}" if kinds else "It has none"
        raise UserError(f"unknown argument {argument!r} of {name}.{suggestion(argument, kinds)} {known}")
    assert setting.arguments is not None
    valid = setting.arguments.get(argument, setting.valid)
    if argument == "input_shape":  # three numbers for images, one for a text
        valid = dataclasses.replace(valid, length=len(tracks.model_argument(name, {}, argument)))
    require_valid(f"{taker}_args.{argument}", value, kinds[argument], valid)


def _arguments_of(taker: str, name: str) -> dict[str, Any]:
    """The arguments that a model, optimizer, schedule or loss of this name may be given, with their type hints."""
    found = _taker(taker, name)
    function = found.__init__ if taker == "model" else found[0] if isinstance(found, tuple) else found
    hints = typing.get_type_hints(function)
    names = [each.name for each in inspect.signature(function).parameters.values() if each.kind is each.KEYWORD_ONLY]
    common = {"weight_decay": float, "clip_norm": float | None} if taker == "optimizer" else {}
    return common | {each: hints.get(each, Any) for each in names if each not in ("lr", "steps", "t", "rngs")}
