"""Folders of images: what is cut, scaled and converted how, and what is refused."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import struct
import unicodedata
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compare.data import DataError, load
from compare.data.folder import read_image
from compare.data.subsets import share
from compare.errors import UserError


def write_images(root: Path, classes: dict[str, int], suffix: str = ".png", size: tuple[int, int] = (8, 8)) -> Path:
    rng = np.random.default_rng(0)
    for name, count in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / name / f"{i}{suffix}")
    return root


def test_folder_of_images_loads(tmp_path: Path) -> None:
    root = write_images(tmp_path, {"dog": 12, "cat": 20, ".hidden": 1})
    (root / "cat" / "notes.txt").write_text("passed over")
    data = load(f"folder:{root}", image_size=8, val_size=0)
    assert data.classes == ("cat", "dog")
    assert np.bincount(data.train_y).tolist() == [17, 10]
    assert np.bincount(data.test_y).tolist() == [3, 2]  # a sixth of each class
    everything = np.concatenate([data.train_x, data.test_x])
    files = [np.asarray(Image.open(path)) for path in sorted(root.glob("[cd]*/*.png"))]
    assert sorted(x.tobytes() for x in everything) == sorted(x.tobytes() for x in files)
    assert data.mean == pytest.approx(data.train_x.mean(axis=(0, 1, 2)) / 255)
    assert data.std == pytest.approx(data.train_x.std(axis=(0, 1, 2)) / 255)
    again = load(f"folder:{root}", image_size=8, val_size=5, seed=9)
    assert (again.test_x == data.test_x).all()
    assert len(again.val_x) == 5


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".bmp", ".gif", ".webp", ".ppm"])
def test_images_get_the_requested_size_and_channels(suffix: str, tmp_path: Path) -> None:
    write_images(tmp_path, {"a": 2, "b": 2}, suffix, size=(20, 30))
    for channels in (1, 3):
        data = load(f"folder:{tmp_path}", image_size=12, channels=channels)
        assert data.train_x.shape == (2, 12, 12, channels)
        assert len(data.mean) == channels


def read_one(
    tmp_path: Path, image: Image.Image, name: str = "x.png", channels: int = 3, **options: object
) -> np.ndarray:
    write_images(tmp_path, {"a": 2, "b": 2})
    for old in (tmp_path / "a").iterdir():
        image.save(tmp_path / "a" / f"{old.stem}{Path(name).suffix}", **options)
    return load(f"folder:{tmp_path}", image_size=4, channels=channels).train_x[0]


def test_centred_square_is_cropped(tmp_path: Path) -> None:
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 200
    assert (read_one(tmp_path, Image.fromarray(wide)) == 200).all()


def test_transparent_pixels_become_black(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 4), (200, 100, 50, 0))
    image.paste((200, 100, 50, 255), (0, 0, 2, 4))
    read = read_one(tmp_path, image)
    assert read.tolist() == [[[200, 100, 50]] * 2 + [[0, 0, 0]] * 2] * 4


def test_greyscale_is_the_luma(tmp_path: Path) -> None:
    read = read_one(tmp_path, Image.new("RGB", (4, 4), (255, 0, 0)), channels=1)
    assert read.tolist() == [[[76]] * 4] * 4  # 0.299 * 255


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (4, 4))
    image.paste((255, 255, 255), (0, 0, 4, 2))  # white above black
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    read = read_one(tmp_path, image, "x.jpg", exif=exif, quality=100)
    assert (read[:2] < 10).all()
    assert (read[2:] > 245).all()


@pytest.mark.parametrize(("value", "read"), [(60_000, 60_000 >> 8), (4_080, 255), (1_000, 250), (200, 200)])
def test_deep_greys_are_scaled_by_the_bits_they_use(value: int, read: int, tmp_path: Path) -> None:
    """16, 12, 10 and 8 bits, stored in 16."""
    assert (read_one(tmp_path, Image.fromarray(np.full((4, 4), value, np.uint16))) == read).all()


def test_unusable_image_folder_is_named(tmp_path: Path) -> None:
    cases: list[tuple[dict[str, int], str]] = [
        ({}, r"holds no class at all.*more classes\.$"),
        ({"": 4}, "no class at all.*, but images lie directly in it, such as 0.png"),
        ({"cat/1": 4, "dog/1": 4}, "no class at all.*, but images lie one folder deeper, such as cat/1/0.png"),
        ({"train/cat": 2, "train/dog": 2, "training/cat": 2}, "training, which are the same part"),
        ({"cat": 4}, "holds only the class cat"),
        ({"cat": 4, "dog": 0}, "holds only the class cat"),
        ({"cat": 4, "dog": 1}, "dog: holds 1 image"),
    ]
    for number, (classes, problem) in enumerate(cases):
        root = tmp_path / str(number)
        root.mkdir()
        with pytest.raises(DataError, match=problem):
            load(f"folder:{write_images(root, classes)}")
    with pytest.raises(DataError, match="nowhere: no such folder"):
        load(f"folder:{tmp_path / 'nowhere'}")
    good = write_images(tmp_path / "good", {"cat": 4, "dog": 4})
    with pytest.raises(DataError, match=r"0\.png: is a file, not a folder: unpack it if it is an archive"):
        load(f"folder:{good / 'cat' / '0.png'}")
    shutil.rmtree(good / "dog")
    (good / "IMG_1.heic").write_bytes(b"")
    with pytest.raises(DataError, match=r"only the class cat.*; HEIC photos such as IMG_1\.heic do not count"):
        load(f"folder:{good}")
    good = write_images(tmp_path / "better", {"cat": 4, "dog": 4})
    for options, problem in [({"channels": 2}, "channels must be 1"), ({"image_size": 0}, "image size 0")]:
        with pytest.raises(UserError, match=problem):
            load(f"folder:{good}", **options)


def png_that_claims(width: int, height: int) -> bytes:
    image = io.BytesIO()
    Image.new("RGB", (1, 1)).save(image, "PNG")
    raw = bytearray(image.getvalue())
    raw[16:24] = struct.pack(">2I", width, height)
    raw[29:33] = struct.pack(">I", zlib.crc32(raw[12:29]))
    return bytes(raw)


def test_small_file_cannot_claim_large_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png_that_claims(6000, 6000))
    with pytest.raises(DataError, match=r"claims 6000 x 6000 pixels, more than the 4,000,000"):
        read_image(path, image_size=8, channels=3)
    Image.new("1", (5000, 5000)).save(path, optimize=True)  # nothing is packed more tightly than one colour
    assert read_image(path, image_size=8, channels=1).max() == 0


@pytest.mark.parametrize("content", [b"", b"no image", png_that_claims(9, 9), png_that_claims(50_000, 50_000)])
def test_broken_image_is_named(content: bytes, tmp_path: Path) -> None:
    root = write_images(tmp_path, {"cat": 4, "dog": 4})
    bad = root / "dog" / "2.png"
    bad.write_bytes(content)
    with pytest.raises(DataError, match="Repair the files or take them out") as caught:
        load(f"folder:{root}")
    assert str(bad) in str(caught.value)
    assert hashlib.md5(content).hexdigest() in str(caught.value)


# --- folders as people have them --------------------------------------------------------------------------------------


def test_any_file_name_loads(tmp_path: Path) -> None:
    root = write_images(tmp_path, {"cat": 4, "dog": 4})
    os.rename(root / "cat" / "0.png", os.fsencode(root / "cat") + b"/caf\xe9.png")
    assert len(load(f"folder:{root}", image_size=8, val_size=0).train_x) == 6


def test_names_count_in_their_composed_form(tmp_path: Path) -> None:
    """macOS stores é as two characters: the same images are for testing, in the same order, on every system."""
    digests = []
    for form in ("NFC", "NFD"):
        root = write_images(tmp_path / form, {unicodedata.normalize(form, name): 2 for name in ("chat-é", "chien")})
        for path in sorted(root.glob("*/*.png")):
            path.rename(path.with_name(unicodedata.normalize(form, f"é{path.name}")))
        data = load(f"folder:{root}", image_size=8, val_size=0)
        assert data.classes == ("chat-é", "chien")
        digests.append(data.digest)
    assert digests[0] == digests[1]


def test_system_and_empty_folders_are_passed_over_with_a_note(tmp_path: Path) -> None:
    root = write_images(tmp_path, {"cat": 4, "dog": 4, "bird": 0, "__MACOSX": 0})
    (root / "__MACOSX" / "cat").mkdir()
    (root / "cat" / "._0.png").write_bytes(b"\0\5\26\7")
    data = load(f"folder:{root}", image_size=8)
    assert data.classes == ("cat", "dog")
    assert data.note == "bird holds no images"


def test_what_is_left_out_is_counted_by_suffix_and_dangling_links_are_named(tmp_path: Path) -> None:
    root = write_images(tmp_path, {"cat": 4, "dog": 4})
    for number in range(3):
        (root / "cat" / f"IMG_{number}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (root / "dog" / "notes.txt").write_text("")
    (root / "bird").symlink_to("nowhere/bird")
    (root / "dog" / "gone.png").symlink_to("nowhere.png")
    note = load(f"folder:{root}", image_size=8).note
    assert "left out: 3 .heic, 1 .txt" in note
    assert f"links to nothing: {root / 'bird'}, {root / 'dog' / 'gone.png'}" in note


@pytest.mark.parametrize("suffix", [".tif", ".tga", ".jp2", ".avif"])
def test_every_format_of_pillow_is_read(suffix: str, tmp_path: Path) -> None:
    data = load(f"folder:{write_images(tmp_path, {'cat': 3, 'dog': 3}, suffix, (32, 32))}", image_size=8, val_size=0)
    assert (len(data.train_x), data.note) == (4, "")


@pytest.mark.parametrize(("more", "tested"), [({}, 2), ({"val/cat": 3, "val/dog": 3}, 6)])
def test_a_test_folder_without_classes_is_not_used(more: dict[str, int], tested: int, tmp_path: Path) -> None:
    """As in competitions, whose test images have no labels."""
    root = write_images(tmp_path, {"train/cat": 6, "train/dog": 6, "test": 5, **more})
    data = load(f"folder:{root}", image_size=8, val_size=0)
    assert (len(data.test_x), data.classes) == (tested, ("cat", "dog"))
    assert data.note.startswith("test has no class with images, so it is not used")


def test_levels_of_training_validation_and_test_are_used(tmp_path: Path) -> None:
    counts = {"train": 8, "valid": 4, "test": 5}
    for level, count in counts.items():
        write_images(tmp_path / level, {"cat": count, "dog": count})
    data = load(f"folder:{tmp_path}", image_size=8)
    assert (len(data.train_x), len(data.val_x), len(data.test_x)) == (16, 8, 10)
    assert data.classes == ("cat", "dog")
    shutil.rmtree(tmp_path / "test")
    data = load(f"folder:{tmp_path}", image_size=8, val_size=2)
    assert (len(data.train_x), len(data.val_x), len(data.test_x)) == (14, 2, 8)
    assert data.note == "there is no test folder: val is the test set"
    write_images(tmp_path / "valid", {"bird": 2})
    with pytest.raises(DataError, match=r"train: has no images of the classes bird"):
        load(f"folder:{tmp_path}", image_size=8)


@pytest.mark.parametrize("part", ["test", "val"])
@pytest.mark.parametrize("content", ["1.png", ".DS_Store"])
def test_part_without_classes_is_not_used(part: str, content: str, tmp_path: Path) -> None:
    write_images(tmp_path / "train", {"cat": 8, "dog": 8})
    (tmp_path / part).mkdir()
    shutil.copy(tmp_path / "train" / "cat" / "0.png", tmp_path / part / content)
    data = load(f"folder:{tmp_path}", image_size=8, val_size=0)
    assert (len(data.train_x), len(data.test_x)) == (14, 2)
    left_out = "; left out: 1 .png outside the class folders" if content == "1.png" else ""
    assert data.note == f"{part} has no class with images, so it is not used{left_out}"


@pytest.mark.parametrize(("first", "second"), [("val", "valid"), ("Test", "testing"), ("train", "training")])
def test_two_folders_for_one_part_are_refused(first: str, second: str, tmp_path: Path) -> None:
    for name in {"train", first, second}:
        write_images(tmp_path / name, {"cat": 2, "dog": 2})
    with pytest.raises(DataError, match=f"holds {first} and {second}, which are the same part: merge them"):
        load(f"folder:{tmp_path}", image_size=8)


@pytest.mark.parametrize("name", ["folder:" + 300 * "a", 300 * "a" + ".npz"])
def test_name_that_is_too_long_is_a_missing_one(name: str) -> None:
    with pytest.raises(DataError, match="no such f"):
        load(name, image_size=8)


def test_folder_above_the_classes_says_where_they_lie(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", {"cat": 2, "dog": 2})
    with pytest.raises(DataError, match=r"images lie one folder deeper, such as photos"):
        load(f"folder:{tmp_path}", image_size=8)


def test_every_broken_file_is_named_in_one_message(tmp_path: Path) -> None:
    root = write_images(tmp_path, {"cat": 12, "dog": 12})
    bad = [root / "cat" / f"{number}.png" for number in range(0, 12, 3)]
    for path in bad:
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=r"^4 of 24 images cannot be read\. Repair the files") as caught:
        load(f"folder:{root}", image_size=8)
    assert all(str(path) in str(caught.value) for path in bad)


def test_class_imbalance_is_shown_and_a_fraction_is_of_each_class(tmp_path: Path) -> None:
    data = load(f"folder:{write_images(tmp_path, {'cat': 60, 'dog': 6})}", image_size=8, val_size=0)
    assert data.note == "imbalanced, training images per class: cat 50, dog 5"
    assert np.bincount(share(data, 0.2, seed=0).train_y).tolist() == [10, 1]
    assert np.bincount(share(data, 0.01, seed=0).train_y).tolist() == [1, 1]
    assert len(share(data, 1.0, seed=0).train_y) == 55
    draws = [share(data, 0.2, seed=seed).train_x.tobytes() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    for fraction in (0.0, -1.0, 1.01, float("nan")):
        with pytest.raises(DataError, match="choose one above 0 and at most 1"):
            share(data, fraction, seed=0)
