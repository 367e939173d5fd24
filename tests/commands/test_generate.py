"""Text from a GPT: the same characters in every track, the report where they part, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compare import generate, tracks
from compare.data.text import CHARACTERS
from compare.errors import UserError
from compare.generate import Written, comparison, gumbel, half, write
from compare.weights.formats import description
from compare.weights.network import Network
from compare.weights.npz import write_npz
from numpy_nn.models import MODELS
from numpy_nn.tree import tree_map

ARGS: dict[str, Any] = {"input_shape": (16,), "dim": 12, "depth": 2, "heads": 2, "mlp_dim": 16}


@pytest.fixture(scope="module")
def network() -> Network:
    """A GPT with random weights, large enough that its choices differ from place to place."""
    params = tree_map(lambda leaf: 3 * leaf, MODELS["gpt"](**ARGS).init(np.random.default_rng(0))["params"])
    config = {"model": "gpt", "model_args": ARGS, "dataset": "shakespeare", "preset": "tiny"}
    meta = {"config": config}
    return Network("gpt", ARGS, params, {}, (0.0,), (1.0,), CHARACTERS, "shakespeare", meta)


@pytest.fixture(scope="module")
def written(network: Network) -> dict[str, Written]:
    return generate.generate(network, "To be", list(tracks.TRACKS), length=40, seed=1, temperature=1.0)


def test_the_tracks_write_the_same_characters(written):
    texts = {each.text for each in written.values()}
    assert len(texts) == 1
    assert len(texts.pop()) == 40
    lines = comparison(written).splitlines()
    assert [line.partition(" wrote")[0] for line in lines] == ["NumPy and JAX", "NumPy and PyTorch", "JAX and PyTorch"]
    assert all("wrote the same 40 characters" in line for line in lines)
    assert all(float(re.search(r"at most ([\d.e+-]+),", line)[1]) < 1e-3 for line in lines)  # observed: 3e-5


def test_the_cache_changes_nothing_even_where_the_context_begins_anew(network, written):
    seen: list[int] = []

    def recompute(tokens: np.ndarray, start: int) -> np.ndarray:
        seen[start:] = tokens
        assert len(seen) <= 16
        return MODELS["gpt"](**ARGS).forward(network.params, {}, np.array([seen], np.int32))[0][0, -1]

    prompt = np.frombuffer(b"To be", np.uint8).astype(np.int32)
    want = write(recompute, prompt, gumbel(1, (40, 128)), context=16, temperature=1.0)
    assert want.text == written["numpy"].text
    assert np.abs(want.scores - written["numpy"].scores).max() < 1e-3  # float64 against float32


def test_a_full_context_keeps_its_last_half():
    assert half([1, 2, 3], 4).tolist() == [1, 2, 3]
    assert half([1, 2, 3, 4], 4).tolist() == [3, 4]
    assert half(range(9), 4).tolist() == [7, 8]
    assert half([1], 1).tolist() == [1]


def test_samples_follow_the_softmax_and_temperature_zero_takes_the_largest():
    logits = np.log([0.5, 0.3, 0.15, 0.05])
    for temperature in (1.0, 0.5):
        p = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        drawn = write(lambda *_: logits, np.array([0]), gumbel(0, (20_000, 4)), context=8, temperature=temperature)
        share = np.bincount(drawn.tokens, minlength=4) / 20_000
        assert np.abs(share - p).max() < 4 * np.sqrt(0.25 / 20_000)
    greedy = write(lambda *_: logits, np.array([0]), gumbel(0, (10, 4)), context=8, temperature=0.0)
    assert set(greedy.tokens) == {0}
    assert np.array_equal(gumbel(3, (5, 4)), gumbel(3, (5, 4)))
    assert not np.array_equal(gumbel(3, (5, 4)), gumbel(4, (5, 4)))


def test_where_two_tracks_part_both_margins_are_told(written):
    numpy, other = written["numpy"], written["torch"]
    scores, tokens = other.scores.copy(), other.tokens.copy()
    first, second = np.argsort(-scores[7])[:2]
    scores[7, second] = scores[7, first] + 2e-6
    tokens[7:] = second
    (line,) = comparison({"numpy": numpy, "torch": Written(tokens, scores)}).splitlines()
    assert line.startswith(f"NumPy and PyTorch part at character 8: NumPy preferred {CHARACTERS[first]!r} to ")
    assert line.endswith("and PyTorch the other way round by 2.0e-06")


def test_the_command_writes_the_text_and_compares(network, tmp_path: Path, capsys):
    path = tmp_path / "tiny.npz"
    write_npz(path, network.snapshot, description(network))
    assert generate.main(["--checkpoint", str(path), "--prompt", "To be", "--track", "all", "--length", "20"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("To be")
    assert "NumPy and JAX wrote the same 20 characters" in printed
    assert generate.main(["--checkpoint", str(path), "--prompt", "To be", "--length", "20"]) == 0
    assert printed.startswith(capsys.readouterr().out.rstrip("\n"))
    assert generate.main(["--checkpoint", str(path), "--prompt", "é"]) == 2
    assert "the prompt holds 'é', which is none of the network's 128 characters" in capsys.readouterr().err
    assert generate.main(["--checkpoint", str(path), "--prompt", ""]) == 2
    assert "the prompt is empty" in capsys.readouterr().err


def test_networks_of_images_and_of_texts_are_told_apart(network, capsys):
    assert generate.main(["--checkpoint", "checkpoints/shipped/mlp-mnist.npz"]) == 2
    assert "this mlp on mnist writes no text: choose a checkpoint of gpt-text" in capsys.readouterr().err
    from compare.predict import Predictor

    with pytest.raises(UserError, match="this gpt continues texts and takes no pictures"):
        Predictor(network)
