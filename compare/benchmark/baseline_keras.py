"""TensorFlow's baseline: the same training as a plain script, a Keras model and one ``tf.function`` step.

The training images are normalised in one tensor, a batch is a gather from it, and the step is the usual one: a tape,
its gradients, the update. Only the update is written out, because ``keras.optimizers.SGD`` makes the learning rate part
of the velocity, which is another algorithm under a schedule (notebook 14). It is called like a track and timed with the
same clocks; from the same weights on the same batches its losses must equal those of the tracks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow import keras

from compare.data.stream import InMemory
from compare.training.loop import Training
from numpy_nn.optim import schedule as formula
from numpy_nn.tree import Tree, leaves

tf.config.set_visible_devices([], "GPU")  # or TensorFlow would use one without being asked

DECAY = {"sgd": 0.0, "momentum": 0.9, "nesterov": 0.9}  # of the velocity


@dataclasses.dataclass
class State:
    """The variables of the script."""

    network: keras.Model
    step: Callable[..., Any]  # compiled: images and labels of a batch by number, learning rate -> loss, correct
    rate: Callable[[int], float]
    mean: tf.Tensor
    std: tf.Tensor
    done: int = 0  # steps
    images: tf.Tensor | None = None  # normalised, (n, h, w, c)
    labels: tf.Tensor | None = None


def mlp(
    *, input_shape: tuple[int, ...] = (28, 28, 1), hidden: tuple[int, ...] = (512, 512), classes: int = 10
) -> keras.Model:
    """A multi-layer perceptron."""
    layers = [keras.layers.Dense(size, activation="relu") for size in hidden]
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(), *layers, keras.layers.Dense(classes)])


def cnn(
    *,
    input_shape: tuple[int, ...] = (28, 28, 1),
    channels: tuple[int, ...] = (16, 32),
    kernel: int = 5,
    padding: int = 0,
    pools: tuple[int, ...] = (),
    hidden: int = 128,
    classes: int = 10,
) -> keras.Model:
    """A convolutional network."""
    layers: list[keras.Layer] = []
    for size, pool in zip(channels, pools or (2,) * len(channels), strict=True):
        layers += [keras.layers.ZeroPadding2D(padding)] if padding else []
        layers += [keras.layers.Conv2D(size, kernel, activation="relu")]
        layers += [keras.layers.MaxPooling2D(pool)] if pool > 1 else []
    layers += [keras.layers.Flatten(), keras.layers.Dense(hidden, activation="relu"), keras.layers.Dense(classes)]
    return keras.Sequential([keras.Input(input_shape), *layers])


NETWORKS: dict[str, Callable[..., keras.Model]] = {"mlp": mlp, "cnn": cnn}


def init_state(
    snapshot: Tree,
    *,
    model: str,
    model_args: dict[str, Any],
    optimizer: str,
    optimizer_args: dict[str, Any],
    schedule: str,
    schedule_args: dict[str, Any],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    threads: int,
    loss_args: dict[str, Any],
    **_: Any,
) -> State:
    """The script's variables, with the weights of the snapshot; the same arguments as a track's ``init_state``."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    network = NETWORKS[model](**model_args)
    copy_weights(network, snapshot["params"])
    step = make_step(network, optimizer, label_smoothing=loss_args.get("label_smoothing", 0.0), **optimizer_args)
    rate = formula(schedule, **schedule_args)
    return State(network, step, rate, tf.constant(mean, tf.float32), tf.constant(std, tf.float32))


def copy_weights(network: keras.Model, params: Tree) -> None:
    """Layer by layer in the order of the network: Keras has the tree's layouts, (i, o) and (kh, kw, i, o)."""
    found = leaves(params)
    kernels = [array for path, array in found.items() if path.endswith("kernel")]
    biases = [array for path, array in found.items() if path.endswith("bias")]
    network.set_weights([array for pair in zip(kernels, biases, strict=True) for array in pair])


def make_step(
    network: keras.Model,
    optimizer: str,
    *,
    label_smoothing: float,
    weight_decay: float = 0.0,
    clip_norm: float | None = None,
) -> Callable[..., Any]:
    """μ ← ρ μ + g,  p ← p - η μ, or with ρ μ + g for μ (Nesterov); weight decay on kernels only."""
    decay, parameters = DECAY[optimizer], network.trainable_variables
    velocities = [tf.Variable(tf.zeros_like(p)) for p in parameters]
    criterion = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)

    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor, rate: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            outputs = network(images, training=True)
            loss = criterion(tf.one_hot(labels, outputs.shape[1]), outputs)
        gradients = tape.gradient(loss, parameters)
        if clip_norm is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, clip_norm)
        for p, g, velocity in zip(parameters, gradients, velocities, strict=True):
            g = g + weight_decay * p if len(p.shape) > 1 else g
            velocity.assign(decay * velocity + g)
            p.assign_sub(rate * (decay * velocity + g if optimizer == "nesterov" else velocity))
        return loss, correct(outputs, labels)

    return step


def correct(outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """The number of samples whose largest output is that of their label."""
    return tf.reduce_sum(tf.cast(tf.argmax(outputs, axis=1, output_type=labels.dtype) == labels, tf.int32))


def hold(training: Training) -> None:
    """Turn the training images into the tensor that the script keeps in memory."""
    data, state = training.data, training.state
    state.images, state.labels = normalised(state, data.train_x), tf.constant(data.train_y)
    training.data = InMemory(**{field.name: getattr(data, field.name) for field in dataclasses.fields(data)})


def normalised(state: State, x: np.ndarray) -> tf.Tensor:
    """Bytes to floats, (n, h, w, c)."""
    return (tf.cast(x, tf.float32) / 255 - state.mean) / state.std


def train_steps(state: State, index: np.ndarray, _: np.ndarray) -> tuple[State, dict[str, Any]]:
    """The script's loop over the batches with the image numbers ``index`` (k, n)."""
    rates = np.array([state.rate(state.done + k) for k in range(len(index))], np.float32)
    metrics = [
        state.step(tf.gather(state.images, batch), tf.gather(state.labels, batch), tf.constant(rate))
        for batch, rate in zip(index, rates, strict=True)
    ]
    state.done += len(index)
    losses, corrects = zip(*metrics, strict=True)
    return state, {"loss": np.array(losses), "correct": np.array(corrects), "lr": rates}


def eval_batch(state: State, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Sums over a batch of images as bytes; labels below zero are padding."""
    real = y >= 0
    outputs = tf.boolean_mask(infer(state.network, normalised(state, x)), real)
    labels = tf.constant(y[real])
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs)
    return {"loss_sum": tf.reduce_sum(losses), "correct": correct(outputs, labels), "count": real.sum()}


@tf.function(reduce_retracing=True)
def infer(network: keras.Model, images: tf.Tensor) -> tf.Tensor:
    """The outputs, compiled."""
    return network(images, training=False)


def synchronize(_: State) -> None:
    """The CPU is idle when a call returns: the losses have been read."""


def device_facts(_: State) -> dict[str, Any]:
    """The hardware, and the precision of its matmuls."""
    return {"hardware": "cpu", "matmul_precision": "float32", "peak_device_mb": None}
