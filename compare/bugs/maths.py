"""Bugs in derivatives, formulas and initialization."""

from __future__ import annotations

from typing import Any

from compare.bugs.bug import Bug

DIFFERENCES = "tests/nn/test_ops.py::test_backward_agrees_with_central_differences"
SMALL_RESNET: dict[str, Any] = {
    "model": "resnet",
    "model_args": {"input_shape": (28, 28, 1), "stages": (1, 1), "channels": (8, 16)},
    "lr": 0.3,
    "steps": 80,
}
SMALL_VIT: dict[str, Any] = {
    "model": "vit",
    "model_args": {"patch": 7, "dim": 16, "depth": 1, "heads": 2, "mlp_dim": 32},
    "optimizer": "adamw",
    "lr": 3e-3,
}

BUGS = (
    Bug(
        name="conv-stride",
        file="numpy_nn/conv_tiled.py",
        right="dpadded[tile, a : a + stride * oh : stride, b : b + stride * ow : stride] +=",
        wrong="dpadded[tile, a : a + oh, b : b + ow] +=",
        story="The backward pass of a convolution was written and tested with stride 1, and ignores the stride: "
        "gradients of windows two pixels apart are added one pixel apart.",
        symptom="Plain networks train as usual. A network that downsamples learns, but less well than it should, "
        "because the layers before the downsampling receive wrong gradients.",
        lesson="A gradient check with stride 2 on images that are not square. Test an operation with every argument "
        "off its default.",
        caught_by=f"{DIFFERENCES}[conv2d-stride-2]",
        training=SMALL_RESNET,
    ),
    Bug(
        name="norm-variance",
        file="numpy_nn/norm.py",
        right="dx = normed * tile(-all_mean(dscale / size))",
        wrong="dx = np.zeros_like(normed)",
        story="The derivative of batch norm has three terms: x acts directly, through the mean, and through the "
        "variance. The third was left out because it looked small.",
        symptom="It learns, but slightly worse and less steadily than the other tracks. Nothing becomes infinite, and"
        " nothing fails.",
        lesson="A gradient check with random cotangents. If dx has a component along x̂, the variance term is "
        "missing: scaling all x changes no output.",
        caught_by=f"{DIFFERENCES}[batch_norm-training]",
        training=SMALL_RESNET,
    ),
    Bug(
        name="pool-ties",
        file="numpy_nn/conv.py",
        right="        largest &= open_\n        open_ ^= largest\n",
        wrong="        open_ ^= largest\n",
        story="The gradient of a max pool goes to the pixel that won. Where two are equal, both were found equal to "
        "the largest, and both got all of it.",
        symptom="Next to nothing: on photographs no two pixels tie. On drawings with a plain background the tracks "
        "part slowly, and nobody can say why.",
        lesson="A test on ties, made on purpose, against a framework's rule: the first in reading order wins. Random "
        "numbers never tie, so random tests never see it.",
        caught_by="tests/nn/test_ops.py::test_operation_agrees_with_autograd[torch-max_pool-ties]",
        training={"model": "cnn", "model_args": {"channels": (4, 8), "hidden": 32}},
    ),
    Bug(
        name="attention-scale",
        file="numpy_nn/attention.py",
        right="    # S = q kᵀ/√d\n    ds *= scale\n    dq = ds @ k\n",
        wrong="    # S = q kᵀ/√d\n    dq = ds @ k\n",
        story="The forward pass divides the scores by √d. The backward pass does not, since a constant seemed "
        "harmless.",
        symptom="A transformer trains, but its queries and keys have a learning rate that is √d times too high. Adam,"
        " which normalizes the size of a gradient, hides most of it.",
        lesson="A gradient check of the operation alone: dv is right, dq and dk are off by the same factor. The "
        "factor identifies the cause: 2.24 is √5, for 5 features.",
        caught_by=f"{DIFFERENCES}[attention]",
        training=SMALL_VIT,
    ),
    Bug(
        name="softmax-overflow",
        file="numpy_nn/losses.py",
        right="shifted = x - x.max(axis=-1, keepdims=True)\n",
        wrong="shifted = x\n",
        story="Softmax as it stands in the book: e to the x, over their sum. The largest logit was not subtracted "
        "first, which changes nothing on paper.",
        symptom="All is well as long as logits are small. With a higher learning rate the other tracks stumble and "
        "recover, and here the loss is nan for good.",
        lesson="A test with logits of ±1000. In float32 e^89 is infinite; with the maximum subtracted no exponent is "
        "above 0.",
        caught_by="tests/nn/test_ops.py::test_operation_agrees_with_autograd[torch-cross_entropy-at-1000]",
        training={"lr": 0.5},
    ),
    Bug(
        name="loss-mean-axis",
        file="numpy_nn/losses.py",
        right="return -(q * log_p * valid).sum() / n, (log_p, q, valid, n)",
        wrong="return -(q * log_p * valid).mean(), (log_p, q, valid, n)",
        story="The loss is a sum over classes and a mean over images. A single mean over both axes was shorter to "
        "write.",
        symptom="A first loss below 0.3, although an untrained network with ten classes must give about log 10 = "
        "2.30. It still trains well, because its hand-written gradient is right.",
        lesson="Check the first loss. A gradient check also finds it: loss and gradient are plausible, but not of "
        "the same function.",
        caught_by=f"{DIFFERENCES}[cross_entropy]",
    ),
    Bug(
        name="double-softmax",
        file="torch_nn/losses.py",
        right="F.cross_entropy(logits, labels.clamp(min=0)",
        wrong="F.cross_entropy(logits.softmax(dim=1), labels.clamp(min=0)",
        story="The network should say probabilities, so its outputs got a softmax. PyTorch's cross entropy has one "
        "inside.",
        symptom="The loss starts at 2.30, falls, and stays above 1.46, whatever one tries. Accuracy is not even bad.",
        lesson="Learn one batch by heart: the loss must come next to 0. log(e + 9) - 1 = 1.46 is the least that "
        "probabilities as logits can reach.",
        caught_by="tests/nn/test_techniques.py::test_every_loss_accepts_class_indices_and_distributions[cross_entropy]",
        track="torch",
    ),
    Bug(
        name="lstm-gates",
        file="jax_nn/recurrent.py",
        right="i, f, g, o = jnp.split(gates, 4, axis=1)",
        wrong="f, i, g, o = jnp.split(gates, 4, axis=1)",
        story="The kernels of the four gates are concatenated into one matrix. Their order is a convention, and "
        "libraries differ.",
        symptom="It learns, and every gradient check passes, because this is a valid LSTM. Weights trained elsewhere "
        "give nonsense, and the forget gate does not start open.",
        lesson="Parity. A gradient check verifies the derivative of a function, not that it is the intended function.",
        caught_by="tests/nn/test_sequence_models.py::test_recurrent_layers_agree_on_every_step_and_length[LSTM-equal]",
        track="jax",
        training={"model": "lstm", "model_args": {"hidden": 16}, "optimizer": "adamw", "lr": 1e-2},
    ),
    Bug(
        name="first-values",
        file="numpy_nn/initializers.py",
        right="return rng.normal(0.0, math.sqrt(2.0 / fan_in), shape)",
        wrong="return rng.normal(0.0, 1.0, shape)",
        story="Kernels were drawn from a standard normal distribution, without scaling by the fan-in.",
        symptom="The first loss is above 30 instead of about 2.30. It falls, but the network ends less accurate, in "
        "all three tracks alike, because they share the initial parameters.",
        lesson="Check the first loss. Parity and gradient checks pass: the tracks agree and their gradients are "
        "right, but the initialization is wrong in all three.",
        caught_by="tests/nn/test_ops.py::test_initializers_have_the_documented_mean_and_variance[he_normal-0.006666666666666667]",
    ),
)
