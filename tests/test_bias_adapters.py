"""Transformations by large pre-trained models, as far as they need none: folders of outputs, errors, pictures."""

import json
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from jaxweights.bias import adapters, transformations
from jaxweights.bias.adapters import colours, depth, detection, folder, models, sam, text_to_image
from jaxweights.bias.adapters.detection import Detections
from jaxweights.bias.adapters.folder import Failure, Running, Step
from jaxweights.errors import UserError


def pictures(source, count=7, broken=()):
    rng = np.random.default_rng(0)
    for i in range(count):
        path = source / f"{'ab'[i % 2]}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (6 + i % 2, 8, 3), np.uint8)).save(path)
        if i in broken:
            path.write_bytes(path.read_bytes()[:120])
    return source


class Doubles:
    """A model that has only ever seen batches of one shape, and counts what it was asked."""

    def __init__(self, weights="first", fails=(), ends_after=99):
        self.batches, self.began, self.weights, self.fails, self.ends_after = [], 0, weights, fails, ends_after

    def begin(self):
        self.began += 1
        return Running(self.run, key=lambda given: given.image.shape, weights=self.weights)

    def run(self, batch):
        if len(self.batches) == self.ends_after:
            raise KeyboardInterrupt
        assert len({given.image.shape for given in batch}) == 1
        self.batches.append([given.name for given in batch])
        return [Failure("is disliked") if given.name in self.fails else 255 - given.image for given in batch]

    def step(self, **values):
        return Step("inversion", values, self.begin, batch_size=2)


def test_outputs_belong_to_images_and_are_made_once(tmp_path):
    source, target, model = pictures(tmp_path / "in", broken=(2,)), tmp_path / "out", Doubles(fails=("b/3.png",))
    images = folder.listed(source)
    ended = Doubles(ends_after=1)
    with pytest.raises(KeyboardInterrupt):
        folder.convert(ended.step(), images, target)
    early = {path: path.stat().st_mtime_ns for path in target.rglob("?.png")}
    found = folder.convert(model.step(), images, target)
    assert sorted(found.failed) == ["a/2.png", "b/3.png"] and "is disliked" in folder.complaint(found)
    assert "cannot be decoded" in found.failed["a/2.png"] and json.loads((target / folder.FAILED).read_text())
    assert {path: path.stat().st_mtime_ns for path in early} == early and len(early) <= 2
    assert max(map(len, model.batches)) == 2 and sum(map(len, model.batches)) == 6 - len(early)
    for name, path in found.outputs.items():
        np.testing.assert_array_equal(np.asarray(Image.open(path)), 255 - np.asarray(Image.open(source / name)))
    # Mended images are made up for, the others left; then the model is not even loaded.
    pictures(source)
    again = Doubles()
    assert not folder.convert(again.step(), images, target).failed
    assert sorted(sum(again.batches, [])) == ["a/2.png", "b/3.png"]
    assert not folder.convert(again.step(), images, target).failed and again.began == 1
    assert not list(target.rglob(".tmp*")) and len(list(target.rglob("?.png"))) == 7


def test_folders_of_other_outputs_are_refused(tmp_path):
    source, target = pictures(tmp_path / "in", 2), tmp_path / "out"
    images = folder.listed(source)
    folder.convert(Doubles().step(level=1), images, target)
    with pytest.raises(UserError, match="level: 1 -> 2"):
        folder.convert(Doubles().step(level=2), images, target)
    pictures(source, 3)
    with pytest.raises(UserError, match="weights: 'first' -> 'second'"):
        folder.convert(Doubles("second").step(level=1), folder.listed(source), target)
    with pytest.raises(UserError, match="no manifest.json"):
        folder.convert(Doubles().step(), images, source)
    with pytest.raises(UserError, match="one name"):
        folder.convert(Doubles().step(), {"a": images["a/0.png"], "a.png": images["a/0.png"]}, tmp_path / "new")
    with pytest.raises(UserError, match="lies in the source"):
        adapters.convert_folder(transformations.make("depth"), source, source / "depth")  # type: ignore[arg-type]
    for wrong in (tmp_path / "absent", target / ".."):
        with pytest.raises(UserError, match="no folder|no images"):
            folder.listed(wrong if wrong.name == "absent" else pathlib.Path(__file__).parent / "golden")


def test_words_and_numbers_become_files_of_their_own(tmp_path):
    step = Step("names", {}, lambda: Running(lambda batch: [{"names": [g.name]} for g in batch]), form=folder.JSON)
    found = folder.convert(step, folder.listed(pictures(tmp_path / "in", 2)), tmp_path / "out")
    assert json.loads(found.outputs["b/1.png"].read_text()) == {"names": ["b/1.png"]}


def broken(name, **options):
    assert options["local_files_only"]
    raise RuntimeError(f"out of bounds in {name}\nand more")


def test_an_absent_extra_and_absent_weights_say_what_to_do(monkeypatch, tmp_path):
    made = transformations.make({"kind": "depth", "model": str(tmp_path)})
    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    assert isinstance(made, adapters.Depth)
    with pytest.raises(UserError, match="is a folder without config.json"):
        models.built(made, "AutoModel", broken)
    with pytest.raises(UserError, match="no such folder"):
        models.identity(made.replace(model="./depth"))
    with pytest.raises(UserError, match="model is ''"):
        models.identity(made.replace(model=""))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded as AutoModel .out of bounds.*as save_pretrained writes it"):
        models.built(made, "AutoModel", broken)
    first = models.identity(made)
    (tmp_path / "model.safetensors").write_bytes(b"1")
    models.fingerprint.cache_clear()
    assert models.identity(made) != first
    with pytest.raises(UserError, match="has no weights for 1 parts .*head.weight"):
        models._refuse_random(made, "AutoModelForDepthEstimation", {"missing_keys": {"head.weight"}})
    for name in ("torch", "transformers", "diffusers"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r'pip install "jaxweights\[adapters\]"'):
        made.of_images(pixels, ["0" * 32], "", tmp_path / "kept")


def test_models_of_collections_are_named(tmp_path):
    made = transformations.make({"kind": "dit", "models": {"a": "x/a", "c": "x/c"}})
    assert isinstance(made, adapters.DiT)
    assert made.of_collection("c").model == "x/c" and made.step("a").facts["model"] == "x/a"
    made.check_collections(["a", "c"])
    with pytest.raises(UserError, match="no model for b, and one for c, not .*no others: a, b"):
        made.check_collections(["a", "b"])
    with pytest.raises(UserError, match="model is ''; give the one of this folder"):
        made.step()
    assert made.replace(model=str(tmp_path), models={}).step().facts["model"] == str(tmp_path)


def test_depths_become_bytes():
    np.testing.assert_array_equal(depth.levels(np.array([[1.0, 2.0], [1.5, 3.0]])), [[0, 127], [63, 255]])
    assert not depth.levels(np.full((2, 2), 7.0)).any()


def test_classes_have_colours():
    assert colours.ade20k().shape == (150, 3) and colours.ade20k()[[0, 149]].tolist() == [[120] * 3, [92, 0, 255]]
    many = colours.distinct(1203)
    assert len(np.unique(many, axis=0)) == 1203 and many.min(axis=1).max() < 255
    painted = colours.painted(np.array([[0, 2], [150, -1]]), colours.ade20k())
    np.testing.assert_array_equal(painted, [[[120] * 3, [6, 230, 230]], [[255] * 3, [255] * 3]])


def test_boxes_that_overlap_a_better_one_are_left_out():
    found = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 7], [20, 20, 30, 30]], np.float32)
    scores = np.array([0.8, 0.9, 0.7, 0.5], np.float32)
    assert sam.distinct(found, scores, 0.7).tolist() == [1, 3]  # 9/10 of the first, 7/9 of the third
    assert sam.distinct(found, scores, 0.95).tolist() == [1, 0, 2, 3]
    assert not len(sam.distinct(found[:0], scores[:0], 0.7))
    # As one after the other.
    rng = np.random.default_rng(0)
    many = np.sort(rng.uniform(0, 9, (60, 2, 2)), axis=1).reshape(60, 4).astype(np.float32)
    scores, kept = rng.permutation(60).astype(np.float32), []
    for row in np.argsort(-scores):
        if all(len(sam.distinct(many[[row, other]], scores[[row, other]], 0.3)) == 2 for other in kept):
            kept.append(row)
    assert sam.distinct(many, scores, 0.3).tolist() == kept and len(kept) < 40
    np.testing.assert_array_equal(sam.grid(2), [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])


def test_objects_are_outlined_and_named_on_white():
    boxes = np.array([[2, 3, 20, 15], [-4, 2, 90, 25]], np.float32)
    labels = np.array([7, 9])
    found = Detections(boxes, ("cat", "sofa"), np.array([0.9, 0.8], np.float32), labels, (30, 40), 12)
    bare, named = (detection.drawn(found, names) for names in (False, True))
    assert bare.shape == (30, 40, 3) and bare.dtype == np.uint8
    first, second = colours.distinct(12)[[7, 9]]
    assert (bare[3:16, 2] == first).all() and (bare[15, 2:21] == first).all() and (bare[25] == second).all()
    assert (bare[6:13, 5:18] == 255).all() and (named[3:16, 5:19] != 255).any()
    none = Detections(boxes[:0], (), np.zeros(0, np.float32), labels[:0], (30, 40), 12)
    assert (detection.drawn(none, True) == 255).all()


def test_captions_belong_to_images_by_path_or_digest(tmp_path):
    path = tmp_path / "captions.jsonl"
    rows = [{"image": "a/0.png", "caption": "a dog", "digest": "d0"}, {"image": "b/1.png", "caption": "a sofa"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert text_to_image.read_captions(path) == {"a/0.png": "a dog", "d0": "a dog", "b/1.png": "a sofa"}
    made = transformations.make({"kind": "text_to_image", "captions": str(path)})
    assert isinstance(made, adapters.TextToImage)
    before = made.step().facts
    path.write_text(path.read_text() + json.dumps({"caption": "a cat"}) + "\n")
    assert made.step().facts["captions"] != before["captions"]
    with pytest.raises(UserError, match="without image or digest: 'a cat'"):
        text_to_image.read_captions(path)
    path.write_text(json.dumps(rows[0]) + "\n" + json.dumps({**rows[0], "caption": "a cat", "digest": "d1"}) + "\n")
    assert text_to_image.read_captions(path) == {"d0": "a dog", "d1": "a cat"}
    path.write_text("".join(json.dumps({**rows[0], "caption": text}) + "\n" for text in ("a dog", "a cat")))
    with pytest.raises(UserError, match="two captions of"):
        text_to_image.read_captions(path)
    with pytest.raises(UserError, match="captions is 'absent'; there is no such file"):
        made.replace(captions="absent").step()
