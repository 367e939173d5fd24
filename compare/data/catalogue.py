"""Any image dataset of TFDS's catalogue, by its official name: tfds:mnist, tfds:cifar10, tfds:kmnist, ...

TFDS downloads it once, into the folder `tfds` of the data folder; the images are those of its splits "train" and
"test", in its order. TFDS writes PNGs by TensorFlow, so this happens in a process of its own; reading does without.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from compare.data.fetch import data_root
from compare.data.files import DataError
from compare.data.folder import channel_statistics
from compare.data.loaders.records import tfds
from compare.data.stream import Data


def load_tfds(name: str, data_dir: Path | None) -> Data:
    """The dataset that TFDS knows by this name, in memory; its images must all have one size."""
    root = data_root(data_dir) / "tfds"
    try:
        if not found(name, root).is_prepared():
            prepare(name, root)
        builder = found(name, root)
        train, test = builder.as_data_source(split=["train", "test"])
        keys = builder.info.supervised_keys or ("image", "label")
        (train_x, train_y), (test_x, test_y) = arrays(train, keys), arrays(test, keys)
        classes = tuple(builder.info.features[keys[1]].names)
    except DataError as error:
        raise DataError(f"tfds:{name} {error}") from error
    except Exception as error:  # TFDS raises what it likes, and of an unknown name pages
        problem = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise DataError(
            f"tfds:{name} is not in {root} and cannot be loaded ({problem}). Choose an image dataset with the splits "
            "train and test from tensorflow.org/datasets/catalog, and be online the first time."
        ) from error
    mean, std = channel_statistics(train_x)
    return Data(
        name=f"tfds:{name}",
        train_x=train_x,
        train_y=train_y,
        test_x=test_x,
        test_y=test_y,
        classes=classes,
        mean=mean,
        std=std,
    )


def found(name: str, root: Path) -> Any:
    """TFDS's builder of a dataset, prepared or not."""
    return tfds().builder(name, data_dir=root, file_format="array_record")


def prepare(name: str, root: Path) -> None:
    """Download it, in another process."""
    done = subprocess.run(
        [sys.executable, "-m", "compare.data.catalogue", name, root.absolute()],
        cwd=Path(__file__).resolve().parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise OSError(done.stderr.strip().rpartition("\n")[2] or f"its process ended with {done.returncode}")


def arrays(source: Any, keys: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """All examples of a data source: images uint8 (n, h, w, c), labels int32 (n,)."""
    examples = [source[number] for number in range(len(source))]
    shapes = sorted({example[keys[0]].shape for example in examples})
    if len(shapes) != 1 or len(shapes[0]) != 3:
        raise DataError(
            f"holds images of several sizes, {shapes[0]} to {shapes[-1]}: all images must have the same size"
        )
    x = np.stack([example[keys[0]] for example in examples])
    return x, np.array([example[keys[1]] for example in examples], np.int32)


if __name__ == "__main__":
    found(sys.argv[1], Path(sys.argv[2])).download_and_prepare()
