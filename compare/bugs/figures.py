"""Bugs in the figures: data that is not what it seems, and evaluation of something else."""

from __future__ import annotations

from compare.bugs.bug import Bug
from compare.bugs.maths import SMALL_RESNET

BUGS = (
    Bug(
        name="labels-apart",
        file="compare/data/stream.py",
        right="np.take(self.train_x, index, axis=0), np.take(self.train_y, index)",
        wrong="np.take(self.train_x, index, axis=0), np.take(self.train_y, index[:, ::-1])",
        story="Images and labels were shuffled, each by itself.",
        symptom="The loss stays near 2.30, whatever the learning rate. Every gradient check passes, and all tracks "
        "agree.",
        lesson="Look at ten images as the network gets them, with their labels, behind all that is done to them. Or "
        "learn one batch by heart, and ask again.",
        caught_by="tests/data/test_data.py::test_a_chunk_holds_the_images_and_labels_of_its_indices",
    ),
    Bug(
        name="split-leak",
        file="compare/data/stream.py",
        right="train_x=self.train_x[train],\n            train_y=self.train_y[train],",
        wrong="train_x=self.train_x,\n            train_y=self.train_y,",
        story="Validation images were copied out of the training set, and forgotten there.",
        symptom="Wonderful validation accuracy, clearly above that of the test images, and better with every epoch.",
        lesson="A test that the parts are disjoint and together complete. A validation figure that is better than "
        "the test figure is a reason to worry, not to celebrate.",
        caught_by="tests/data/test_data.py::test_split_is_disjoint_complete_and_a_function_of_the_seed",
    ),
    Bug(
        name="test-images-dropped",
        file="compare/data/stream.py",
        right="for start in range(0, len(x), batch_size):",
        wrong="for start in range(0, len(x) - batch_size + 1, batch_size):",
        story="The last batch is shorter than the others, which is a nuisance for a compiled evaluation. It was left "
        "out.",
        symptom="An accuracy of 9,984 images, or of 9,500, printed as if it were of 10,000. Here the evaluation "
        "counts what it has seen, and stops.",
        lesson="Count. Every evaluation says of how many images it is, and a test holds the number.",
        caught_by="tests/data/test_data.py::test_evaluation_counts_every_image_once_in_one_shape[10-4]",
    ),
    Bug(
        name="train-mode",
        file="torch_nn/train.py",
        right="state.model.eval()\n    return state.eval_forward",
        wrong="state.model.train()\n    return state.eval_forward",
        story="A model has two modes, and stays in the one it was put into last. Nobody called eval().",
        symptom="What the network says of an image depends on which other images come with it. Alone it gets another "
        "answer, and the accuracy changes with the batch size of the evaluation.",
        lesson="Ask for an image alone and in company: the answers must be equal. Parity of logits finds it too.",
        caught_by="tests/nn/test_parity.py::test_models_agree[vgg-float64]",
        track="torch",
        training=SMALL_RESNET,
    ),
)
