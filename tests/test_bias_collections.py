"""Collections: what their readers make of good and bad files, and what the checks refuse or say."""

import dataclasses
import gzip
import io
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

from jaxweights.bias import collections
from jaxweights.bias.collections.sources import as_bytes
from jaxweights.errors import UserError


def pixels(count=1, shape=(12, 10, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image.squeeze())).save(buffer, kind, **options)
    return buffer.getvalue()


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def read(path, kind="folder", name="mine", data_dir=None, **settings):
    return collections.make({"kind": kind, "path": str(path), **settings}).read(name, data_dir)


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_folder_and_archive_hold_the_same_images(tmp_path):
    images = pixels(5)
    files = {f"{i}.png": encoded(image) for i, image in enumerate(images)}
    folder = write(tmp_path / "a", {**files, "notes.txt": b"no image", ".hidden.png": b""})
    labels = {f"{i}.cls": str(i % 2).encode() for i in range(5)}
    archived = dict(sorted({**files, **labels, "0.json": b"{}"}.items()))
    write_tar(tmp_path / "x-0.tar", archived)
    write_tar(tmp_path / "x-1.tar.gz", {"k/9.jpg": encoded(images[0], "JPEG")}, "w:gz")
    one, two = read(folder), read("x-*.tar", "webdataset", data_dir=tmp_path)
    for found in (one, two):
        np.testing.assert_array_equal(found.images, images)
        assert found.formats == {"PNG": 5} and found.sizes.tolist() == [[12, 10]] * 5
    assert one.digests.tolist() == two.digests.tolist() and len(set(one.digests)) == 5
    assert one.labels is None and two.labels is not None and two.labels.tolist() == [0, 1, 0, 1, 0]
    # A class of an example without an image is nobody else's.
    stray = write_tar(tmp_path / "y.tar", {"0.cls": b"1", "1.png": files["0.png"], "2.cls": b"0"})
    assert read(stray, "webdataset").labels is None
    assert read(tmp_path / "x-*", "webdataset").formats == {"PNG": 5, "JPEG": 1}


def test_modes_become_channels_and_sizes_one(tmp_path):
    rgb = Image.fromarray(pixels(shape=(40, 30, 3))[0])
    opaque = rgb.convert("RGBA")
    palette = rgb.convert("P")
    palette.info["transparency"] = bytes(range(256))
    pictures = {"1": rgb.convert("1"), "L": rgb.convert("L"), "P": palette, "RGB": rgb, "RGBA": opaque}
    files = {f"{mode}.png": encoded(picture) for mode, picture in pictures.items()}
    files["cmyk.jpg"] = encoded(rgb.convert("CMYK"), "JPEG")
    folder = write(tmp_path, files)
    found = read(folder, size=16)
    assert found.images.shape == (6, 16, 16, 3) and found.modes == dict.fromkeys((*pictures, "CMYK"), 1)
    resized = np.asarray(rgb.resize((16, 21), Image.Resampling.BICUBIC))[2:18]
    np.testing.assert_array_equal(found.images[3], resized)
    np.testing.assert_array_equal(found.images[4], resized)
    assert read(folder, size=16, channels=1).images.shape == (6, 16, 16, 1)
    # The hash is that of the source, whatever is done to the pixels.
    np.testing.assert_array_equal(read(folder, size=8, quality=20, shrink=10).digests, found.digests)


def test_all_bad_files_are_listed_and_can_be_skipped(tmp_path):
    good = encoded(pixels()[0])
    deep = Image.fromarray(np.arange(120, dtype=np.uint16).reshape(12, 10))
    bad = {
        "cut.png": good[: len(good) // 2],
        "cut.jpg": encoded(pixels(shape=(64, 64, 3))[0], "JPEG")[:900],
        "deep.png": encoded(deep),
        "empty.png": b"",
        "small.png": encoded(pixels(shape=(8, 8, 3))[0]),
        "text.jpg": b"no image",
    }
    folder = write(tmp_path / "all", {"a.png": good, **bad})
    with pytest.raises(UserError, match="--skip_bad") as caught:
        read(folder)
    assert all(name in str(caught.value) for name in bad) and "a.png" not in str(caught.value)
    found = read(folder, skip_bad=True)
    assert len(found) == 1 and len(found.skipped) == len(bad)
    with pytest.raises(UserError, match="text.jpg"):
        read(write(tmp_path / "none", {"text.jpg": b"no image"}), skip_bad=True)
    with pytest.raises(UserError, match="no images"):
        read(write(tmp_path / "void", {"readme.txt": b""}))


def test_truncated_archives(tmp_path):
    path = write_tar(tmp_path / "x.tar", {f"{i}.png": encoded(image) for i, image in enumerate(pixels(3))})
    whole = path.read_bytes()
    for size, count in ((2300, 2), (2048, 2), (1800, 1)):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="x.tar is truncated"):
            read(path, "webdataset")
        assert len(read(path, "webdataset", skip_bad=True)) == count
    path.write_bytes(gzip.compress(whole)[:900])
    with pytest.raises(UserError, match="x.tar is truncated"):
        read(path, "webdataset")
    path.write_bytes(b"nothing of the kind" * 99)
    with pytest.raises(UserError, match="no tar archive"):
        read(path, "webdataset", skip_bad=True)
    for kind in ("webdataset", "folder"):
        with pytest.raises(UserError, match="There is no"):
            read(tmp_path / "absent", kind)


def test_image_sets_are_cut_and_re_encoded(tmp_path):
    labels = np.arange(60) % 3
    arrays = {"train_images": pixels(60, (8, 8, 1)), "train_labels": labels}
    np.savez(tmp_path / "x.npz", **arrays, test_images=pixels(9, (8, 8, 1), 1), test_labels=labels[:9])
    make = {"kind": "image_set", "dataset": str(tmp_path / "x.npz"), "classes": (0, 1), "limit": 20}
    first = collections.make(make).read("a")
    second = collections.make({**make, "first": 20, "quality": 30, "size": 16}).read("b")
    np.testing.assert_array_equal(first.images[..., 1], arrays["train_images"][labels < 2][:20, ..., 0])
    assert first.labels is not None and set(first.labels) == {0, 1} and not set(first.digests) & set(second.digests)
    assert second.shape == (16, 16, 3) and second.quality == 30
    assert len(collections.make({**make, "part": "all", "classes": (), "limit": 0}).read("a")) == 69
    with pytest.raises(UserError, match="has 40"):
        collections.make({**make, "limit": 10_000}).read("a")
    with pytest.raises(UserError, match="remove 12"):
        collections.make({**make, "classes": (0, 12)}).read("a")
    with pytest.raises(UserError, match="did you mean folder"):
        collections.make({"kind": "folders"})


def test_pixels_of_any_scale_become_bytes():
    np.testing.assert_array_equal(as_bytes(np.array([0, 8, 16], np.uint8), "digits"), [0, 128, 255])
    np.testing.assert_array_equal(as_bytes(np.array([0.0, 0.5, 1.0]), "own"), [0, 128, 255])
    with pytest.raises(UserError, match="from 0 to 1"):
        as_bytes(np.array([0.0, 2.0]), "own")


def named(name, seed, count=6, **changes):
    made = collections.from_arrays(name, pixels(count, (8, 8, 3), seed), np.arange(count) % 3)
    return dataclasses.replace(made, **changes)


def test_collections_that_fit_pass_without_a_word():
    checked = collections.check([named("a", 0), named("b", 1)])
    assert not checked.notes and [len(c) for c in checked.collections] == [6, 6]


def test_an_image_in_two_collections_is_refused_or_removed():
    both = [named("a", 0), named("b", 1), named("c", 2)]
    both[1].images[2:4] = both[0].images[:2]
    both[1] = collections.from_arrays("b", both[1].images)
    with pytest.raises(UserError, match="2 images are in two collections.*a: 2, at 0, 1; b: 2, at 2, 3"):
        collections.check(both)
    checked = collections.check(both, repeated="remove")
    assert [len(c) for c in checked.collections] == [4, 4, 6]
    assert "left out" in checked.notes[0] and "different sizes" in checked.notes[1]
    assert not set(checked.collections[0].digests) & set(checked.collections[1].digests)


def test_repetitions_within_a_collection_count_once():
    images = pixels(4, (8, 8, 3))
    twice = collections.from_arrays("a", np.concatenate([images, images[:1]]))
    checked = collections.check([twice, named("b", 1, 4)])
    assert len(checked.collections[0]) == 4 and "1 of 5 images are repetitions" in checked.notes[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"formats": {"JPEG": 6}}, "different formats .a 6 array; b 6 JPEG.*Set the same quality"),
        ({"modes": {"L": 3, "RGB": 3}}, "different modes"),
        ({"quality": 75}, "re-encoded differently"),
        ({"sizes": np.full((6, 2), 16)}, "shrink to 8"),
        ({"skipped": ("x.png is empty",)}, "b: 1 bad items left out .x.png is empty"),
    ],
)
def test_confounds_are_named(changes, words):
    notes = collections.check([named("a", 0), named("b", 1, **changes)]).notes
    assert any(re.search(words, note) for note in notes)


def test_images_that_were_shrunk_alike_are_not_to_be_shrunk_again():
    alike = [dataclasses.replace(one, shrink=8) for one in (named("a", 0), named("b", 1, sizes=np.full((6, 2), 16)))]
    (note,) = collections.check(alike).notes
    assert "All were shrunk to 8 first" in note and "Set shrink" not in note


def test_impossible_comparisons_are_refused():
    for case, words in (
        ([named("a", 0)], "two or more"),
        ([named("a", 0), named("a", 1)], "a name of its own"),
        ([named("a", 0), collections.from_arrays("b", pixels(6))], "several shapes"),
    ):
        with pytest.raises(UserError, match=words):
            collections.check(case)
    with pytest.raises(UserError, match="too few images .a 6, b 6.: 12 together, and 256"):
        collections.check([named("a", 0), named("b", 1)], least=256)


def test_balanced_collections_have_one_size():
    cut = collections.balanced([named("a", 0, 6), named("b", 1, 9)], seed=3)
    assert [len(c) for c in cut] == [6, 6] and set(cut[1].digests) < set(named("b", 1, 9).digests)
    with pytest.raises(UserError, match="a has 6"):
        collections.balanced([named("a", 0, 6), named("b", 1, 9)], seed=3, count=7)


def test_divisions_share_no_image():
    whole = named("a", 0, 30)
    thirds = collections.identical(whole, 3, seed=1)
    assert [len(part) for part in thirds] == [10] * 3
    assert len(set(np.concatenate([part.digests for part in thirds]))) == 30
    assert not np.array_equal(thirds[0].digests, collections.identical(whole, 3, seed=2)[0].digests)
    parts = collections.by_class(whole, 3)
    assert [set(part.labels) for part in parts if part.labels is not None] == [{0}, {1}, {2}]
    for groups in (4, [[0], [0]], [[0], [7]], [[0], []]):
        with pytest.raises(UserError):
            collections.by_class(whole, groups)
