"""Bugs in data and evaluation."""

from __future__ import annotations

from compare.bugs.bug import Bug
from compare.bugs.maths import SMALL_RESNET

BUGS = (
    Bug(
        name="labels-apart",
        file="compare/data/stream.py",
        right="np.take(self.train_x, index, axis=0), np.take(self.train_y, index, axis=0)",
        wrong="np.take(self.train_x, index, axis=0), np.take(self.train_y, index[:, ::-1], axis=0)",
        story="Images and labels were shuffled separately.",
        symptom="The loss stays near 2.30, whatever the learning rate. Every gradient check passes, and all tracks "
        "agree.",
        lesson="Look at ten images as the network receives them, after all transforms, with their labels. Or overfit"
        " one batch and check its labels.",
        caught_by="tests/data/test_data.py::test_a_chunk_holds_the_images_and_labels_of_its_indices",
    ),
    Bug(
        name="split-leak",
        file="compare/data/stream.py",
        right="train_x=self.train_x[train],\n            train_y=self.train_y[train],",
        wrong="train_x=self.train_x,\n            train_y=self.train_y,",
        story="Validation images were copied from the training set, but not removed from it.",
        symptom="Very high validation accuracy, clearly above the test accuracy, and rising with every epoch.",
        lesson="Test that training and validation set are disjoint and together complete. Be suspicious when "
        "validation accuracy exceeds test accuracy.",
        caught_by="tests/data/test_data.py::test_split_is_disjoint_complete_and_a_function_of_the_seed",
    ),
    Bug(
        name="test-images-dropped",
        file="compare/data/stream.py",
        right="for start in range(0, len(x), batch_size):",
        wrong="for start in range(0, len(x) - batch_size + 1, batch_size):",
        story="The last batch is shorter than the others, which is inconvenient for a compiled evaluation, so it "
        "was dropped.",
        symptom="The accuracy of 9,984 images, or of 9,500, is reported as that of 10,000. Here the evaluation counts"
        " its images and stops.",
        lesson="Count. Every evaluation reports the number of images, and a test checks it.",
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
