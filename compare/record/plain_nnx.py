"""The Flax script that people start from: NNX modules, ``nnx.jit`` around one step, a tf.data pipeline.

    python -m compare.record.plain_nnx speedrun-mnist 0     the preset's network and settings, seed 0

It shares the preset's settings with the tracks, and the training images, but none of their code: initial weights, order
of the images, layers and optimizer are those of Flax, tf.data and Optax. It prints its test accuracy as a line of JSON.
"""

from __future__ import annotations

import json
import math
import sys
from itertools import pairwise

import jax
import jax.numpy as jnp
import optax
import tensorflow as tf
from flax import nnx
from jax import Array

from compare import presets
from compare.config import Config
from compare.data import load
from compare.training.steps import plan

tf.config.set_visible_devices([], "GPU")  # it only reads the images


class MLP(nnx.Module):
    """A multi-layer perceptron."""

    def __init__(self, *, hidden: tuple[int, ...] = (512, 512), inputs: int = 784, classes: int = 10, rngs: nnx.Rngs):
        self.layers = nnx.List(nnx.Linear(i, o, rngs=rngs) for i, o in pairwise((inputs, *hidden)))
        self.output = nnx.Linear(hidden[-1], classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = x.reshape(len(x), -1)
        for layer in self.layers:
            x = nnx.relu(layer(x))
        return self.output(x)


class CNN(nnx.Module):
    """A convolutional network for images of 28x28 pixels."""

    def __init__(
        self,
        *,
        channels: tuple[int, ...] = (16, 32),
        kernel: int = 5,
        pools: tuple[int, ...] = (2, 2),
        batch_norm: bool = False,
        hidden: int = 128,
        classes: int = 10,
        rngs: nnx.Rngs,
    ):
        self.convs = nnx.List(
            nnx.Conv(i, o, (kernel, kernel), padding="VALID", use_bias=not batch_norm, rngs=rngs)
            for i, o in pairwise((1, *channels))
        )
        self.norms = nnx.List(nnx.BatchNorm(o, rngs=rngs) for o in channels if batch_norm)
        self.pools = tuple(pools)
        side = 28
        for pool in self.pools:
            side = (side - kernel + 1) // pool
        self.hidden = nnx.Linear(side * side * channels[-1], hidden, rngs=rngs)
        self.output = nnx.Linear(hidden, classes, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        for number, conv in enumerate(self.convs):
            window = (self.pools[number], self.pools[number])
            x = nnx.max_pool(conv(x), window_shape=window, strides=window)
            if self.norms:
                x = self.norms[number](x)
            x = nnx.relu(x)
        return self.output(nnx.relu(self.hidden(x.reshape(len(x), -1))))


NETWORKS = {"mlp": MLP, "cnn": CNN}


def make_optimizer(network: nnx.Module, config: Config, steps: int) -> nnx.Optimizer:
    """Nesterov's momentum with weight decay under a one-cycle schedule, in Optax's own functions."""
    warmup = config.schedule_args.get("warmup", 0.3)
    rate = optax.cosine_onecycle_schedule(steps, config.lr, pct_start=warmup)
    decay = optax.add_decayed_weights(config.optimizer_args["weight_decay"])
    return nnx.Optimizer(network, optax.chain(decay, optax.sgd(rate, momentum=0.9, nesterov=True)), wrt=nnx.Param)


@nnx.jit(static_argnames="smoothing")
def train_step(network: nnx.Module, optimizer: nnx.Optimizer, images: Array, labels: Array, smoothing: float) -> Array:
    """One update; returns the loss."""

    def loss_of(network: nnx.Module) -> Array:
        targets = optax.smooth_labels(jax.nn.one_hot(labels, 10), smoothing)
        return optax.softmax_cross_entropy(network(images), targets).mean()

    loss, gradients = nnx.value_and_grad(loss_of)(network)
    optimizer.update(network, gradients)
    return loss


@nnx.jit
def count_correct(network: nnx.Module, images: Array, labels: Array) -> Array:
    """How many images of a batch are classified correctly."""
    return jnp.sum(network(images).argmax(axis=1) == labels)


def train(config: Config) -> float:
    """Train as the preset says, and return the accuracy on all test images."""
    tf.random.set_seed(config.seed)
    data = load(config.dataset, data_dir=config.data_dir, val_size=config.val_size, seed=config.seed)

    def normalised(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return (tf.cast(image, tf.float32) / 255 - data.mean) / data.std, label

    steps = plan(config, len(data.train_x)).steps
    train_set = tf.data.Dataset.from_tensor_slices((data.train_x, data.train_y)).map(normalised)
    train_set = train_set.shuffle(10_000).repeat().batch(config.batch_size, drop_remainder=True).take(steps).prefetch(1)
    test_set = tf.data.Dataset.from_tensor_slices((data.test_x, data.test_y)).map(normalised)
    test_set = test_set.batch(math.gcd(len(data.test_y), config.eval_batch_size)).prefetch(1)

    network = NETWORKS[config.model](**config.model_args, rngs=nnx.Rngs(config.seed))
    optimizer = make_optimizer(network, config, steps)
    smoothing = config.loss_args.get("label_smoothing", 0.0)
    network.train()
    for images, labels in train_set.as_numpy_iterator():
        train_step(network, optimizer, images, labels, smoothing)
    network.eval()
    correct = sum(int(count_correct(network, images, labels)) for images, labels in test_set.as_numpy_iterator())
    return correct / len(data.test_y)


if __name__ == "__main__":
    print(json.dumps({"test_accuracy": train(presets.seeded(sys.argv[1], int(sys.argv[2])))}), flush=True)
