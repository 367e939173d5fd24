"""Differences to plant in one of the two ports: the right line, what stands there instead, and what is to be found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Planted:
    """``right`` stands once in the port and becomes ``wrong``; the report must name the line that holds ``line``."""

    port: str  # "torch" or "jax"
    name: str
    right: str
    wrong: str
    line: str = ""  # default: wrong
    hint: str = ""  # a pattern that the hint or the fitted pattern matches
    direction: str = "forward"
    train: bool = False
    model: str = "Net"

    def __str__(self) -> str:
        return f"{self.port}-{self.name}"


def torch(name: str, right: str, wrong: str, **more) -> Planted:
    return Planted("torch", name, right, wrong, **more)


def jax(name: str, right: str, wrong: str, **more) -> Planted:
    return Planted("jax", name, right, wrong, **more)


FORWARD = [
    torch(
        "layer-norm-eps",
        "nn.LayerNorm(16, eps=1e-5)",
        "nn.LayerNorm(16, eps=1e-6)",
        line="x = self.layer_norm(x)",
        hint="ε differs",
    ),
    torch(
        "batch-norm-eps",
        "BatchNorm2d(6, eps=1e-5",
        "BatchNorm2d(6, eps=1e-3",
        line="x = self.norm(x)",
        hint="ε differs",
    ),
    torch("eps-by-hand", "torch.sqrt(var + 1e-5)", "torch.sqrt(var + 1e-12)", hint="ε differs"),
    torch("biased-variance", "unbiased=False", "unbiased=True", hint="biased variance"),
    torch(
        "padding",
        "        x = self.conv(x)",
        "        x = F.conv2d(F.pad(x, (0, 1, 0, 1)), self.conv.weight, stride=2)",
        hint=r"padding differs: a pads \(0, 1\), b \(1, 1\)",
    ),
    torch(
        "padding-mode",
        "6, 6, 3, padding=1)",
        '6, 6, 3, padding=1, padding_mode="reflect")',
        line="x = self.conv2(x)",
        hint="border",
    ),
    torch("gelu-tanh", "F.gelu(h)", 'F.gelu(h, approximate="tanh")', hint="GELU with tanh, b GELU with erf"),
    torch("gelu-sigmoid", "F.gelu(h)", "h * torch.sigmoid(1.702 * h)", hint="1.702"),
    torch(
        "flatten-order",
        "        x = x.permute(0, 2, 3, 1)\n        x = x.flatten(1)",
        "        x = x.flatten(1)  # wrong",
        line="# wrong",
        hint="flatten order",
    ),
    torch(
        "missing-bias",
        "h = self.expand(x)",
        "h = F.linear(x, self.expand.weight)",
        hint="bias expand.* is missing in a",
    ),
    torch("dropout-active", "h = standardise(h)", "h = F.dropout(standardise(h), 0.5)", hint="dropout"),
    torch("scores-not-scaled", "scores = scores / q.shape[-1] ** 0.5", "scores = scores * 1.0", hint="√4|factor"),
    torch("wrong-sign", "weights = scores.softmax(-1)", "weights = (-scores).softmax(-1)", hint=""),
    torch("negative-slope", "F.leaky_relu(x, 0.1)", "F.leaky_relu(x, 0.01)", hint="negative|leaky"),
    torch("align-corners", "align_corners=False", "align_corners=True", hint="align_corners is True in a, False in b"),
    torch("softmax-axis", "softmax(-1)", "softmax(-2)", hint="softmax is over axis -2 in a, over axis -1 in b"),
    torch("transposed", "tokens = x.unflatten(1, (4, 4))", "tokens = x.unflatten(1, (4, 4)).transpose(1, 2)", hint=""),
    torch("no-shortcut", "        x = x + shortcut", "        pass  # wrong", line="x = F.interpolate(", hint=""),
    torch(
        "one-channel",
        "        x = F.relu(x)",
        "        x = F.relu(torch.cat([1.5 * x[:, :1], x[:, 1:]], 1))",
        hint="axis",
    ),
    torch(
        "label-smoothing",
        "losses = -0.9 * chosen - 0.1 * logp.mean(1)",
        "losses = -1.0 * chosen - 0.0 * logp.mean(1)",
        model="Loss",
        hint="label smoothing is 0 in a, 0.1 in b",
    ),
    torch("sum-for-mean", "losses.mean()", "losses.sum()", model="Loss", hint="grows with the batch"),
    jax("layer-norm-eps", "epsilon=1e-5", "epsilon=1e-6", line="x = self.layer_norm(x)", hint="ε differs"),
    jax("batch-norm-eps", "lax.rsqrt(var + 1e-5)", "lax.rsqrt(var + 1e-3)", hint="ε differs"),
    jax("eps-by-hand", "jnp.sqrt(var + 1e-5)", "jnp.sqrt(var + 1e-12)", hint="ε differs"),
    jax(
        "biased-variance",
        "x.var(axis=1, keepdims=True)",
        "x.var(axis=1, keepdims=True, ddof=1)",
        hint="biased variance",
    ),
    jax(
        "padding-same",
        "strides=2, padding=1",
        'strides=2, padding="SAME"',
        line="x = self.conv(x)",
        hint=r"padding differs: a pads \(1, 1\), b \(0, 1\)",
    ),
    jax(
        "padding-circular",
        "(3, 3), padding=1, rngs",
        '(3, 3), padding="CIRCULAR", rngs',
        line="x = self.conv2(x)",
        hint="border",
    ),
    jax("gelu-tanh", "approximate=False", "approximate=True", hint="GELU with erf, b GELU with tanh"),
    jax("silu", "jax.nn.gelu(h, approximate=False)", "jax.nn.silu(h)", hint="SiLU"),
    jax(
        "flatten-order",
        "x = x.reshape(len(x), -1)",
        "x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)",
        hint="flatten order",
    ),
    jax("missing-bias", "h = self.expand(x)", "h = x @ self.expand.kernel[...]", hint="bias expand.* is missing in b"),
    jax(
        "dropout-active",
        "h = standardise(h)",
        "h = standardise(h) * jax.random.bernoulli(jax.random.key(0), 0.5, h.shape) * 2",
        hint="dropout",
    ),
    jax("scaled-by-d", "scores = scores / q.shape[-1] ** 0.5", "scores = scores / q.shape[-1]", hint="√4|factor"),
    jax("wrong-slope", "jnp.where(x > 0, x, 0.1 * x)", "jnp.where(x > 0, x, 0.2 * x)", hint="negative|leaky"),
    jax("softmax-axis", "axis=-1)", "axis=-2)", hint="softmax is over axis -1 in a, over axis -2 in b"),
    jax("sign", "x = x + shortcut", "x = x - shortcut"),
    jax("values-for-keys", "scores = q @ k.swapaxes(1, 2)", "scores = q @ v.swapaxes(1, 2)"),
    jax("nearest", '"bilinear"', '"nearest"'),
    jax(
        "label-smoothing",
        "-0.9 * chosen - 0.1 * logp",
        "-0.8 * chosen - 0.2 * logp",
        model="Loss",
        line="losses = -0.8",
        hint="label smoothing is 0.1 in a, 0.2 in b",
    ),
    jax("sum-for-mean", "losses.mean()", "losses.sum()", model="Loss", hint="grows with the batch"),
]

BACKWARD = [
    torch("detached-shortcut", "shortcut = x", "shortcut = x.detach()", hint="detach"),
    torch("detached-mean", "mean = x.mean(1, keepdim=True)", "mean = x.mean(1, keepdim=True).detach()", hint="detach"),
    torch("wrong-gradient", "return 2 * dy", "return dy", line="def backward(ctx, dy)", hint="own gradient"),
    torch("no-grad-weights", "weights = scores.softmax(-1)", "weights = scores.detach().softmax(-1)", hint="detach"),
    jax("stopped-shortcut", "shortcut = x", "shortcut = lax.stop_gradient(x)", hint="stop_gradient"),
    jax(
        "stopped-scores",
        "scores = q @ k.swapaxes(1, 2)",
        "scores = lax.stop_gradient(q @ k.swapaxes(1, 2))",
        hint="stop_gradient",
    ),
    jax("wrong-gradient", "return (2 * dy,)", "return (dy,)", line="def scale_backward", hint="own gradient"),
    jax(
        "stopped-variance",
        "var = x.var(axis=1, keepdims=True)",
        "var = lax.stop_gradient(x.var(axis=1, keepdims=True))",
        hint="stop_gradient",
    ),
]

TRAINING = [
    torch(
        "momentum",
        "momentum=0.1",
        "momentum=0.9",
        line="x = self.norm(x)",
        direction="statistics",
        hint="momentum convention",
    ),
    torch(
        "train-scale",
        "h = F.gelu(h)",
        "h = F.gelu(h) * (1.25 if self.training else 1.0)",
        hint="constant factor 0.8.*only in training mode",
    ),
    torch(
        "statistics-frozen",
        "x = self.norm(x)",
        "x = F.batch_norm(x, self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias)",
        hint="only in training mode",
    ),
    jax(
        "momentum",
        "0.9 * self.mean[...] + 0.1 * mean",
        "0.1 * self.mean[...] + 0.9 * mean",
        direction="statistics",
        hint="momentum convention",
    ),
    jax(
        "running-variance",
        "0.1 * var * n / (n - 1)",
        "0.1 * var",
        line="self.var[...] = 0.9",
        direction="statistics",
        hint="biased",
    ),
    jax(
        "batch-mean-axes",
        "mean = x.mean(axis=(0, 1, 2))",
        "mean = x[:1].mean(axis=(0, 1, 2))",
        hint="only in training mode",
    ),
]
