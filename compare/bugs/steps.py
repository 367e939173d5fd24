"""Bugs in the training step: state, gradients, learning rate, dtypes."""

from __future__ import annotations

from compare.bugs.bug import Bug
from compare.bugs.maths import SMALL_RESNET

GOES_ON = "tests/nn/test_train.py::test_any_track_resumes_from_any_tracks_snapshot"

BUGS = (
    Bug(
        name="zero-grad",
        file="torch_nn/train.py",
        right='group["lr_scale"]\n\n        state.optimizer.zero_grad()\n        for images',
        wrong='group["lr_scale"]\n\n        for images',
        story="PyTorch adds a new gradient to the old one. The line that clears it was lost.",
        symptom="The loss falls at first and then oscillates or grows, as if the learning rate rose with every step.",
        lesson="A few steps against another track: the first two losses agree, the third does not. A single step "
        "cannot test what is carried over to the next.",
        caught_by=f"{GOES_ON}[torch-torch]",
        track="torch",
        training={"optimizer": "sgd"},
    ),
    Bug(
        name="adam-bias",
        file="numpy_nn/optim.py",
        right="p -= (lr / (1 - beta1**t)) * mu / (np.sqrt(nu * (1 / (1 - beta2**t))) + eps)",
        wrong="p -= lr * mu / (np.sqrt(nu) + eps)",
        story="Adam's averages start at zero, and are too small for a while. The two corrections looked like a detail.",
        symptom="Steps three times too long at the beginning, as √ν is even smaller than μ; after a few hundred "
        "steps one notices nothing.",
        lesson="Parity over a few steps from rest. A test that resumes from old moments, or waits for convergence, "
        "would pass.",
        caught_by="tests/nn/test_parity.py::test_optimizers_agree[adam-None-float64]",
        training={"optimizer": "adam", "schedule": "constant", "lr": 3e-3},
    ),
    Bug(
        name="decay-biases",
        file="jax_nn/optim.py",
        right='path[-1].key in ("kernel", "embedding")',
        wrong='path[-1].key in ("kernel", "embedding", "bias")',
        story="Weight decay applies to weights, and somebody counted biases among them.",
        symptom="Nothing in the curve. The biases of this track are slightly closer to zero than those of the others.",
        lesson="Parity leaf by leaf: after a few steps every bias is off, and no kernel is. A comparison of losses "
        "would have let it pass.",
        caught_by="tests/nn/test_sequence_models.py::test_weight_decay_applies_to_the_same_leaves_in_every_track[mlp]",
        track="jax",
        training={"optimizer_args": {"weight_decay": 5e-4}},
    ),
    Bug(
        name="schedule-step",
        file="torch_nn/train.py",
        right="lr = state.schedule(state.step)",
        wrong="lr = state.schedule(state.step + 1)",
        story="Is the first step number 0 or number 1? The learning rate of the next step was used.",
        symptom="Nothing visible: two trainings whose learning rates are shifted by one step look alike. The reported"
        " rates are off by one row.",
        lesson="Parity of parameters after a few steps with a schedule that changes: with a constant rate no test "
        "can find it.",
        caught_by=f"{GOES_ON}[numpy-torch]",
        track="torch",
    ),
    Bug(
        name="stats-dropped",
        file="jax_nn/train.py",
        right='            "stats": stats,\n',
        wrong='            "stats": carry["stats"],\n',
        story="A pure step returns all that changed. The running statistics of batch norm changed, and the old ones "
        "were returned.",
        symptom="A beautiful training curve, and a test accuracy near that of guessing.",
        lesson="Evaluate on training images: if those fail too, it is no overfitting but another function. Then "
        "compare the statistics, leaf by leaf.",
        caught_by="tests/nn/test_lr_scale.py::test_frozen_parameters_do_not_change_by_one_bit[jax-config1-nesterov]",
        track="jax",
        training=SMALL_RESNET,
    ),
    Bug(
        name="momentum-flipped",
        file="numpy_nn/norm.py",
        right="MOMENTUM = 0.9  #",
        wrong="MOMENTUM = 0.1  #",
        story="A momentum of 0.9 in one library is 0.1 in another: one weights the old value, the other the new "
        "one. The number was copied from another library.",
        symptom="The training loss is identical to the last digit. Test accuracy fluctuates from one evaluation to "
        "the next, because the statistics are those of the last few batches.",
        lesson="Compare running statistics after several steps with PyTorch's. After no steps, or with identical "
        "batches, both rules agree.",
        caught_by="tests/nn/test_ops.py::test_running_statistics_follow_those_of_pytorch",
        training=SMALL_RESNET | {"schedule": "constant", "lr": 0.05},
    ),
    Bug(
        name="silent-float64",
        file="numpy_nn/train.py",
        right="pixels = x.astype(mean.dtype)",
        wrong="pixels = x.astype(float)",
        story="Bytes must be converted to numbers, and Python's type is float. NumPy's float has 64 bits.",
        symptom="The results are right, or slightly better. Each step takes longer and uses more memory.",
        lesson="A test of dtypes: float32 in, float32 out, everywhere. No test of values can find it, and a "
        "benchmark would compare two different things.",
        caught_by="tests/nn/test_train.py::test_float32_stays_float32[numpy]",
        training={"model_args": {"hidden": (512, 512)}},
    ),
)
