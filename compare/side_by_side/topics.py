"""What the page shows: topics, the views of each, and the definitions of the three tracks that stand in a view."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from compare.side_by_side.statements import Reader, Statement, flat, tree

PACKAGES = {"numpy": "numpy_nn", "jax": "jax_nn", "torch": "torch_nn"}
MODELS = ("mlp", "cnn", "resnet", "lstm", "vit", "gpt")
FILES = {
    "linear": "layers",
    "conv": "conv",
    "norm": "norm",
    "attention": "attention",
    "optim": "optim",
    "train": "train",
}
TOPICS = (*MODELS, *FILES)
VIEWS = {"init": "initialization", "forward": "forward", "backward": "backward", "update": "update"}

# What every model shares: where each track differentiates and updates. A file, a definition in it, and parts of the
# statements that are meant (none: all of them). The NumPy excerpt of a row names it.
Excerpt = tuple[str, str, tuple[str, ...]]
DIFFERENTIATE: dict[str, Excerpt] = {
    "numpy": ("train", "loss_and_grads", ()),
    "jax": ("train", "init_state", ("value_and_grad",)),
    "torch": ("train", "train_steps", ("train_forward", "state.loss(", "loss.backward")),
}
UPDATE: list[dict[str, Excerpt]] = [
    {
        "numpy": ("train", "update", ()),
        "jax": ("train", "make_step", ("def step(", "tx.update", "apply_updates", "ema is", "incremental_update")),
        "torch": ("train", "train_steps", ("def ", "schedule", "lr_scale", "clip_norm", "optimizer.step", "average")),
    },
    {"numpy": ("optim", "update", ()), "jax": ("optim", "make", ()), "torch": ("optim", "make", ())},
    {"numpy": ("optim", "momentum", ()), "jax": ("optim", "_momentum", ()), "torch": ("optim", "_momentum", ())},
    {"numpy": ("optim", "adam", ()), "jax": ("optim", "_adam", ()), "torch": ("optim", "_adam", ())},
]

Block = list[Statement]  # the statements of one definition, in the order of the source


@dataclass
class View:
    """One position of the switch: for each definition, by a name that the tracks share, its statements by track."""

    topic: str
    name: str
    blocks: dict[str, dict[str, Block]]

    def of(self, track: str) -> Block:
        """All statements of a track."""
        return [statement for block in self.blocks.values() for statement in block.get(track, [])]


def views(topic: str) -> dict[str, View]:
    """The views of a topic, by name, without those in which nothing stands."""
    made = {name: View(topic, name, {}) for name in VIEWS}
    for track, package in PACKAGES.items():
        file = f"models/{topic}" if topic in MODELS else FILES[topic]
        for name, part, statement in definitions(track, f"{package}/{file}.py"):
            part = "update" if topic in ("optim", "train") else part
            block = made[part].blocks.setdefault(name, {}).setdefault(track, [])
            block += flat([statement])
    if topic in MODELS:
        add_excerpts(made["backward"], [DIFFERENTIATE])
        add_excerpts(made["update"], UPDATE)
    return {name: view for name, view in made.items() if view.blocks}


def definitions(track: str, path: str) -> Iterator[tuple[str, str, Statement]]:
    """Name, view and statements of each definition of a file: functions, methods, classes, and tables in capitals."""
    reader = Reader(track, path)
    for node in tree(path).body:
        if isinstance(node, ast.ClassDef):
            yield snake(node.name), "init", reader.read(node)
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    yield *named(method.name, snake(node.name)), reader.read(method)
        elif isinstance(node, ast.FunctionDef):
            yield *named(node.name), reader.read(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and target.id != "Cache":
                yield snake(target.id), "forward", reader.read(node)


def named(function: str, owner: str = "") -> tuple[str, str]:
    """The name that a function has in all tracks, and its view: ``conv2d_forward`` and ``Conv.__call__`` are conv."""
    name = function.strip("_").replace("2d", "")
    if owner and name in ("init", "forward", "call", "backward"):
        return owner, "forward" if name == "call" else name
    for part in ("init", "forward", "backward"):
        if name == part or name.endswith(f"_{part}"):
            return "_".join(filter(None, [owner, name.removesuffix(part).strip("_")])), part
    return "_".join(filter(None, [owner, name])), "forward"


def snake(name: str) -> str:
    """MultiHeadAttention -> multi_head_attention, CNN -> cnn."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.removesuffix("Layer")).lower()


def add_excerpts(view: View, rows: list[dict[str, Excerpt]]) -> None:
    """Add a block for each row of excerpts, named after its NumPy definition."""
    for row in rows:
        block = view.blocks.setdefault(":".join(row["numpy"][:2]), {})
        for track, excerpt in row.items():
            block[track] = list(excerpted(track, *excerpt))


def excerpted(track: str, file: str, name: str, parts: tuple[str, ...]) -> Iterator[Statement]:
    """The statements of a definition; with ``parts``, those that contain one of them."""
    path = f"{PACKAGES[track]}/{file}.py"
    node = next(each for each in tree(path).body if isinstance(each, ast.FunctionDef) and each.name == name)
    for statement in flat([Reader(track, path).read(node)]):
        if not parts or (statement.kind != "Doc" and any(part in statement.code for part in parts)):
            yield statement
