"""The pyfunc of an MLflow model: a network of ours, computed with NumPy alone. MLflow runs this file where it serves.

Images go in as the dataset has them, uint8 (n, h, w, c). For each comes the likeliest class, its probability, and the
probabilities of all classes, as ``python -m compare.predict`` computes them. Of windows of a text, uint8 (n, t), the
class is the character that follows.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class Served(PythonModel):
    """A network from ``network.npz``, computed by the code that was logged with it."""

    def load_context(self, context: Any) -> None:
        """Read the network, and import the code that was logged with it."""
        sys.path.insert(0, context.artifacts["code"])
        from numpy_nn import train
        from numpy_nn.tree import from_leaves

        with np.load(context.artifacts["network"]) as file:  # pickles are refused
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(arrays.pop("meta").item())
        config = meta["config"]
        args = {name: tuple(each) if isinstance(each, list) else each for name, each in config["model_args"].items()}
        self.classes = meta["classes"]
        self.state = train.init_state(
            {"stats": {}, **from_leaves(arrays)},
            model=config["model"],
            model_args=args,
            mean=meta["mean"],
            std=meta["std"],
            schedule_args={"lr": 0.0, "steps": 1},
        )

    def predict(
        self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Class, probability and probabilities of each image: model_input uint8 (n, h, w, c)."""
        from numpy_nn import train
        from numpy_nn.losses import log_softmax

        logits = np.asarray(train.logits(self.state, np.asarray(model_input, np.uint8)), np.float64)
        logits = logits[:, -1] if logits.ndim == 3 else logits
        answers = np.exp(log_softmax(logits))
        return [
            {"class": self.classes[row.argmax()], "probability": float(row.max()), "probabilities": row.tolist()}
            for row in answers
        ]


set_model(Served())
