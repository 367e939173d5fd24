"""Continue a text with a trained GPT, in one track or in all three with the same random numbers.

    python -m compare.generate --checkpoint runs/DATE/checkpoints/gpt-text-jax-seed0 --prompt "ROMEO." --tracks all
    python -m compare.generate --checkpoint gpt-text.npz --temperature 0 --length 200

With several tracks, the command says whether they wrote the same characters; if not, at which character they part,
and by how much one choice beat the other.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compare import cli, networks
from compare.cli import command_line
from compare.data.seeds import SAMPLE, generator
from compare.data.text import CHARACTERS
from compare.errors import UserError
from compare.report.style import NAMES
from compare.weights.network import Network
from compare.weights.open import open_network

LONGEST = 100_000  # characters: their scores take a kilobyte each
Read = Callable[[np.ndarray, int], np.ndarray]  # tokens int (t,), their first position -> logits (v,) after the last


@dataclass(frozen=True)
class Written:
    """What a track wrote: tokens int32 (n,), and for each the scores float64 (n, v) among which it was the largest."""

    tokens: np.ndarray
    scores: np.ndarray
    characters: Sequence[str] = CHARACTERS  # of all tokens

    @property
    def text(self) -> str:
        """The characters."""
        return "".join(self.characters[token] for token in self.tokens)


def write(
    read: Read,
    prompt: np.ndarray,
    noise: np.ndarray,
    *,
    context: int,
    temperature: float,
    characters: Sequence[str] = CHARACTERS,
) -> Written:
    """Continue a prompt int32 (t,) by as many tokens as there are rows of noise (n, v).

    A token is argmax(logits/temperature + noise). With noise from the standard Gumbel distribution, that is a sample
    of softmax(logits/temperature) (Gumbel 1954; Maddison et al. 2014, arXiv:1411.0030); at temperature 0, it is the
    largest logit. When the context is full, its last half is read again as a new beginning.
    """
    sequence, tokens, scores = list(prompt), [], []
    unread, start = half(prompt, context), 0
    for row in noise:
        logits = np.asarray(read(unread, start), np.float64)
        start += len(unread)
        score = logits / temperature + row if temperature else logits
        token = int(score.argmax())
        tokens.append(token)
        scores.append(score)
        sequence.append(token)
        unread = np.array([token], np.int32)
        if start == context:
            unread, start = half(sequence, context), 0
    return Written(np.array(tokens, np.int32), np.array(scores), characters)


def half(sequence: Sequence[int] | np.ndarray, context: int) -> np.ndarray:
    """A sequence that leaves room in the context: its last tokens, half of the context, if it fills it."""
    kept = sequence if len(sequence) < context else sequence[-max(context // 2, 1) :]
    return np.array(kept, np.int32)


def gumbel(seed: int, shape: tuple[int, int]) -> np.ndarray:
    """Noise from the standard Gumbel distribution, -log(-log u) of uniform u: a function of the seed alone."""
    return generator(SAMPLE, seed).gumbel(size=shape)


def parting(a: Written, b: Written) -> int | None:
    """The first position at which two tracks wrote different tokens; None if they wrote the same."""
    different = np.flatnonzero(a.tokens != b.tokens)
    return int(different[0]) if len(different) else None


def comparison(written: dict[str, Written]) -> str:
    """A line for each pair of tracks: the same characters, or where they part and by what margin."""
    lines = []
    for (first, a), (second, b) in itertools.combinations(written.items(), 2):
        one, other, place = NAMES[first], NAMES[second], parting(a, b)
        if place is None:
            apart = np.abs(a.scores - b.scores).max()
            lines.append(
                f"{one} and {other} wrote the same {len(a.tokens):,} characters: their scores differ by at most "
                f"{apart:.1e}, and the closest choice was won by {smallest_margin(a):.1e}"
            )
            continue
        x, y = a.tokens[place], b.tokens[place]
        lines.append(
            f"{one} and {other} part at character {place + 1:,}: {one} preferred {a.characters[x]!r} to "
            f"{a.characters[y]!r} by {a.scores[place, x] - a.scores[place, y]:.1e}, and {other} the other way round by "
            f"{b.scores[place, y] - b.scores[place, x]:.1e}"
        )
    return "\n".join(lines)


def smallest_margin(written: Written) -> float:
    """The smallest distance between the largest and the second largest score at a position."""
    best = np.partition(written.scores, -2, axis=1)[:, -2:]
    return float((best[:, 1] - best[:, 0]).min())


def reader(network: Network, track: str) -> Read:
    """The network in a track, reading one sequence with a key-value cache."""
    return importlib.import_module(f"{track}_nn.generate").Decoder(network.params, model_args=network.args)


def require_text(network: Network) -> int:
    """The number of characters that the network sees at once; UserError if it reads no text."""
    if network.model != "gpt":
        raise UserError(f"this {network.model} on {network.dataset} writes no text: choose a checkpoint of gpt-text")
    if any(len(name) != 1 for name in network.classes):
        raise UserError(
            f"the tokens of this {network.model} have no characters ({', '.join(network.classes[:2])}, ...): give its "
            "dataset the array classes, with the character of each token, and train it again"
        )
    return network.input_shape[0]


def encoded(prompt: str, characters: Sequence[str]) -> np.ndarray:
    """The tokens int32 (t,) of a prompt; UserError if it is empty or has a character that the network does not know."""
    if not prompt:
        raise UserError("the prompt is empty: give at least one character")
    tokens = {character: token for token, character in enumerate(characters)}
    if unknown := sorted(set(prompt) - tokens.keys()):
        raise UserError(f"the prompt holds {unknown[0]!r}, which is none of the network's {len(tokens)} characters")
    return np.array([tokens[character] for character in prompt], np.int32)


def generate(network: Network, prompt: str, names: Sequence[str], **options: Any) -> dict[str, Written]:
    """What each track writes after the prompt: ``length``, ``seed`` and ``temperature`` as on the command line."""
    context = require_text(network)
    tokens = encoded(prompt, network.classes)
    noise = gumbel(options["seed"], (options["length"], len(network.classes)))
    how = {"context": context, "temperature": options["temperature"], "characters": network.classes}
    return {name: write(reader(network, name), tokens, noise, **how) for name in names}


# --- command line -----------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.parser("generate", __doc__)
    text = cli.group(options, "text")
    text.add_argument(
        "--checkpoint", required=True, type=cli.path, metavar="PATH", help="checkpoint folder or exported file of a GPT"
    )
    text.add_argument("--prompt", default="\n", metavar="TEXT", help="what to continue (default: a line break)")
    text.add_argument(
        "--length",
        type=cli.number(int, 1, LONGEST),
        default=500,
        metavar="N",
        help="number of characters (default: 500)",
    )
    text.add_argument("--seed", type=cli.number(int, 0), default=0, metavar="N", help="seed of the noise (default: 0)")
    text.add_argument(
        "--temperature", type=cli.number(float, 0), default=0.8, metavar="X",
        help="divides the logits; 0 takes the most likely character (default: 0.8)",
    )  # fmt: skip
    cli.add_tracks(options, where="text", default=["numpy"], extra=["all"])
    return options


@command_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if the text was written, 2 for an invalid checkpoint, prompt or argument."""
    options = parser().parse_args(arguments)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    network = open_network(options.checkpoint)
    how = {name: getattr(options, name) for name in ("length", "seed", "temperature")}
    written = generate(network, options.prompt, networks.chosen(network.model, options.tracks), **how)
    texts: dict[str, str] = {}  # each text once, with the first track that wrote it
    for name, each in written.items():
        texts.setdefault(each.text, name)
    for text, name in texts.items():
        print(f"--- {NAMES[name]} ---\n{options.prompt}{text}" if len(texts) > 1 else f"{options.prompt}{text}")
    if len(written) > 1:
        print(f"\n{comparison(written)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
