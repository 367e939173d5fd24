"""The configuration of a run, and what is known of each of its settings."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from compare.errors import LARGEST, UserError, Valid, base_of, require_valid, short

# --- the settings -----------------------------------------------------------------------------------------------------


ANY = Valid()
TRAINING, DATA, DEVICES = "what to train", "data", "devices"  # groups of flags


@dataclass(frozen=True)
class Setting:
    """What is known of a field of the :class:`Config`, beside its type and its default.

    ``resume`` says when another value is refused: ``state`` wherever a checkpoint is trained on, ``run`` where the same
    run goes on, ``free`` never.
    """

    help: str
    valid: Valid = ANY
    group: str = ""  # of the command line's flag, --name-of-the-field; "" where there is none
    metavar: str = ""
    search: bool = False  # a search may vary it
    resume: Literal["state", "run", "free"] = "run"
    arguments: Mapping[str, Valid] | None = None  # of a field that holds arguments by name; any other name: ``valid``


def setting(help: str, **known: Any) -> Mapping[str, Setting]:
    """The metadata of a field of the Config: its :class:`Setting`."""
    return {"setting": Setting(help, **known)}


MAX_STEPS = 10**8  # a run keeps the loss of every step
SIZE = Valid(1, 10**6)
SHARE = Valid(0, 1, below=True)
WIDTH = 2**16  # of a layer

MODEL_ARGUMENTS = {
    "input_shape": Valid(1, 4096),
    "classes": Valid(1, 10**6),
    "padding": Valid(0, 64),
    "compression": Valid(0, 1, above=True),
    "eps": Valid(0, 1, above=True),
    "activation": Valid(choices=("relu", "leaky_relu", "elu", "sigmoid", "tanh", "softplus", "silu", "gelu")),
}
OPTIMIZER_ARGUMENTS = {
    "weight_decay": Valid(0),
    "clip_norm": Valid(0, above=True),
    "decay": SHARE,
    "beta1": SHARE,
    "beta2": SHARE,
    "eps": Valid(0, above=True),
}
LOSS_ARGUMENTS = {
    "label_smoothing": Valid(0, 1),
    "class_weights": Valid(0),
    "delta": Valid(0, above=True),
    "gamma": Valid(0, 100),
}
SCHEDULE_ARGUMENTS = {
    "warmup": Valid(0, 1),
    "end": Valid(0, 1),
    "factor": Valid(0, 1, above=True),
    "at": Valid(0, 1),
    "div": Valid(1),
    "final_div": Valid(1),
}


@dataclass(frozen=True)
class Config:
    """One training: everything that decides its result, the track and the thread count excepted.

    UserError where a value is not of the type or in the range that its field has. The arguments of the
    network, the optimizer, the schedule and the loss are checked by ``overrides.require_arguments``.
    """

    preset: str = field(metadata=setting("name of the settings that this one began with"))
    model: str = field(
        metadata=setting("network, a name in numpy_nn.models.MODELS or the path of a file", resume="state")
    )
    dataset: str = field(
        metadata=setting(
            "another dataset: fashion-mnist, tfds:kmnist, folder:PATH, or your arrays in FILE.npz or FILE.py:function",
            group=DATA, metavar="NAME", resume="state",
        )
    )  # fmt: skip
    expected: str = field(default="", metadata=setting("expected accuracy and time, as measured", resume="free"))
    model_args: dict[str, Any] = field(
        default_factory=dict,
        metadata=setting("arguments of the network", valid=Valid(1, WIDTH), arguments=MODEL_ARGUMENTS, resume="state"),
    )
    network_digest: str = field(default="", metadata=setting("SHA-256 of the network's file, if any", resume="state"))
    data_dir: str | None = field(
        default=None,
        metadata=setting(
            "folder of datasets other than MNIST (default: NN_DATA_DIR, or ~/.cache/nn-three-ways)",
            group=DATA, metavar="DIR", resume="free",
        ),
    )  # fmt: skip
    loader: str = field(
        default="memory",
        metadata=setting(
            "library that reads the training images; all give the same batches",
            valid=Valid(choices=("memory", "torch", "tfds", "tfdata", "grain")), group=DATA,
        ),
    )  # fmt: skip
    augment: tuple[str, ...] = field(
        default=(),
        metadata=setting(
            "augmentations in the order of application, e.g. crop:2 flip; without a NAME, those of the preset are off",
            group=DATA, metavar="NAME", search=True,
        ),
    )  # fmt: skip
    epochs: float = field(
        default=10.0,
        metadata=setting(
            "passes over the training images", valid=Valid(0, 10**4, above=True), group=TRAINING, metavar="N"
        ),
    )
    steps: int | None = field(
        default=None,
        metadata=setting(
            "exact number of updates, instead of epochs", valid=Valid(1, MAX_STEPS), group=TRAINING, metavar="N"
        ),
    )
    batch_size: int = field(
        default=128,
        metadata=setting(
            "images per update, on all devices together",
            valid=SIZE, group=TRAINING, metavar="N", search=True, resume="state",
        ),
    )  # fmt: skip
    accumulate: int = field(
        default=1, metadata=setting("micro-batches whose gradients make one update", valid=SIZE, search=True)
    )
    ema: float | None = field(
        default=None,
        metadata=setting(
            "decay of an average of the weights, which evaluation then uses", valid=SHARE, search=True, resume="state"
        ),
    )
    loss: str = field(default="cross_entropy", metadata=setting("loss, a name in numpy_nn.losses.LOSSES", search=True))
    loss_args: dict[str, Any] = field(
        default_factory=dict, metadata=setting("arguments of the loss", arguments=LOSS_ARGUMENTS)
    )
    optimizer: str = field(
        default="nesterov",
        metadata=setting("optimizer, a name in numpy_nn.optim.OPTIMIZERS", search=True, resume="state"),
    )
    optimizer_args: dict[str, Any] = field(
        default_factory=dict, metadata=setting("arguments of the optimizer", arguments=OPTIMIZER_ARGUMENTS)
    )
    schedule: str = field(
        default="one_cycle",
        metadata=setting("schedule of the learning rate, a name in numpy_nn.optim.SCHEDULES", search=True),
    )
    schedule_args: dict[str, Any] = field(
        default_factory=dict, metadata=setting("arguments of the schedule", arguments=SCHEDULE_ARGUMENTS)
    )
    lr: float = field(
        default=0.1,
        metadata=setting("peak learning rate", valid=Valid(0, above=True), group=TRAINING, metavar="X", search=True),
    )
    patience: int | None = field(
        default=None,
        metadata=setting(
            "stop after N evaluations without a better validation accuracy, and keep the best state",
            valid=SIZE, group=TRAINING, metavar="N", search=True,
        ),
    )  # fmt: skip
    keep_best: bool = field(
        default=False,
        metadata=setting("the result is the state of the best validation accuracy, not the last", search=True),
    )
    val_size: int | None = field(
        default=None,
        metadata=setting(
            "validation images (default: 5,000, or a tenth of a small training set)",
            valid=Valid(0, 10**9), resume="state",
        ),
    )  # fmt: skip
    eval_batch_size: int = field(default=500, metadata=setting("images per batch of an evaluation", valid=SIZE))
    lr_scale: dict[str, float] | None = field(
        default=None,
        metadata=setting(
            "factor of the learning rate by prefix of the parameter's path; 0 freezes",
            valid=Valid(0), resume="state",
        ),
    )  # fmt: skip
    precision: str = field(
        default="float32",
        metadata=setting(
            "arithmetic; bfloat16 applies to the matmuls, and is not available in NumPy",
            valid=Valid(choices=("float32", "float64", "bfloat16")), group=DEVICES, search=True,
        ),
    )  # fmt: skip
    device: str = field(
        default="cpu",
        metadata=setting(
            "where JAX and PyTorch compute; NumPy computes on the CPU, and auto takes a GPU if there is one",
            valid=Valid(pattern=r"auto|cpu|gpu(:\d{1,4})?", shown="auto, cpu, gpu or gpu:N"),
            group=DEVICES, metavar="auto|cpu|gpu[:N]", resume="free",
        ),
    )  # fmt: skip
    devices: int = field(
        default=1,
        metadata=setting(
            "devices that share each batch; on a CPU, cores",
            valid=Valid(1, 4096), group=DEVICES, metavar="N", resume="free",
        ),
    )  # fmt: skip
    seed: int = field(
        default=0,
        metadata=setting(
            "of the first weights, the batches and the augmentation", valid=Valid(0, 2**32 - 1), resume="state"
        ),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "model_args", _tuples(self.model_args))
        for name, known in SETTINGS.items():
            require_valid(name, getattr(self, name), kinds()[name], known.valid if known.arguments is None else ANY)

    def to_json(self) -> dict[str, Any]:
        """Every field, as plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Config:
        """Undo :meth:`to_json`; what another version wrote may lack fields, but must not have unknown ones."""
        if not isinstance(values, Mapping):
            raise UserError(f"invalid configuration {short(values)}: expected the names and values of its settings")
        lifted = {RENAMED.get(name, name): value for name, value in values.items() if name not in RETIRED}
        lifted |= {"augment": _tuples(lifted["augment"])} if "augment" in lifted else {}
        lifted |= {"dataset": UNKNOWN} if lifted.get("dataset") == "elsewhere" else {}
        try:
            return cls(**lifted)
        except TypeError as error:
            raise UserError(f"this configuration was written by another version of this project: {error}") from error


def _tuples(value: Any) -> Any:
    """The value with tuples for the lists that JSON and the command line make of them."""
    if isinstance(value, Mapping):
        return {name: _tuples(each) for name, each in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


RETIRED = ("numpy_threads",)  # fields of earlier versions that said nothing about the result
RENAMED = {"promise": "expected"}
UNKNOWN = "unknown"  # the dataset of imported weights that name none; "elsewhere" in earlier versions

SETTINGS: Mapping[str, Setting] = {each.name: each.metadata["setting"] for each in dataclasses.fields(Config)}


@functools.cache
def kinds() -> dict[str, Any]:
    """The type hint of each field of the Config."""
    return typing.get_type_hints(Config)


def parse(name: str, text: str) -> Any:
    """The value of a field that a flag gives, as text; UserError if it has no such value."""
    kind, valid = kinds()[name], SETTINGS[name].valid
    try:
        value = base_of(kind)(text) if base_of(kind) in (int, float) else text
    except ValueError:
        value = text
    require_valid(name, value, kind, valid, given=text)
    return value


@dataclass(frozen=True)
class Interval:
    """How often something is done: after so many steps, or after so many seconds."""

    every: float
    unit: str = "s"  # or "" for steps

    @classmethod
    def parse(cls, text: str) -> Interval:
        """``"60s"`` is a minute, ``"500"`` are 500 steps."""
        number, unit = text.removesuffix("s"), "s" if text.endswith("s") else ""
        try:
            every = float(number) if unit else int(number)
        except ValueError:
            every = 0
        if not 0 < every < LARGEST:
            raise UserError(f"invalid interval {text!r}: expected a number of steps, like 500, or of seconds, like 60s")
        return cls(every, unit)

    def passed(self, *, steps: int, seconds: float) -> bool:
        """Have so many steps, or seconds, gone by?"""
        return (seconds if self.unit else steps) >= self.every

    def __str__(self) -> str:
        return f"{self.every}{self.unit}"
