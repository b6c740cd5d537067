"""Transformations by large pre-trained models: the architectures of transformers and diffusers, at random weights."""

import functools
import importlib.util
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from jaxweights.bias import adapters, collections, study, transformations
from jaxweights.bias.adapters import detection, folder, models, sam, segmentation
from jaxweights.errors import UserError

torch = pytest.importorskip("torch", reason="the extra adapters is not installed")
transformers = pytest.importorskip("transformers", reason="the extra adapters is not installed")
diffusers = pytest.importorskip("diffusers", reason="the extra adapters is not installed")

import tiny_models  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
KEY = jax.random.key(0)
SIZES = ((40, 40), (40, 60), (64, 48), (40, 60))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    place, rng = tmp_path_factory.mktemp("source"), np.random.default_rng(0)
    for i, (height, width) in enumerate(SIZES):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        coarse.resize((width, height)).save(place / f"{i}.png")
    (place / "bad.png").write_bytes(b"no picture")
    return place


def save(place, model, processor=None):
    model.save_pretrained(place)
    if processor is not None:
        processor.save_pretrained(place)
    return str(place)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The folder of a model of `tiny_models`, by name; made once."""
    return functools.cache(lambda name: save(tmp_path_factory.mktemp(name), *getattr(tiny_models, name)()))


def make(kind, **values):
    made = transformations.make({"kind": kind, "batch_size": 2, **values})
    assert isinstance(made, adapters.Adapter)
    return made


def convert(made, source, target):
    """What a transformation makes of a folder: pictures by name."""
    found = adapters.convert_folder(made, source, target)
    assert list(found.failed) == ["bad.png"]
    manifest = json.loads((target / folder.MANIFEST).read_text())
    assert manifest["step"] == made.KIND and manifest["weights"].startswith("fingerprint ")
    return [np.asarray(Image.open(found.outputs[f"{i}.png"])) for i in range(len(SIZES))]


def stored(made, source, tmp_path):
    """The same for arrays, which come out as from the folder."""
    images = np.stack([np.asarray(Image.open(source / f"{i}.png")) for i in (1, 3)])
    kept = transformations.Place(folder=tmp_path / "kept")
    found = transformations.transform(made, images, KEY, kept)
    assert found.dtype == np.uint8 and found.shape[-1] == made.channels(3)
    np.testing.assert_array_equal(transformations.transform(made, images, KEY, kept), found)
    return found


def test_depth(tiny, source, tmp_path):
    made = convert(make("depth", model=tiny("depth")), source, tmp_path / "out")
    assert [picture.shape for picture in made] == list(SIZES)
    assert all(picture.min() == 0 and picture.max() == 255 for picture in made)
    found = stored(make("depth", model=tiny("depth")), source, tmp_path)
    np.testing.assert_array_equal(found[..., 1], [made[1], made[3]])
    swapped = convert(make("depth", model=tiny("depth"), swap_channels=True), source, tmp_path / "swapped")
    assert any((a != b).any() for a, b in zip(made, swapped, strict=True))


def test_contours_of_segment_anything(tiny, source, tmp_path):
    values = {"points_per_side": 4, "points_per_batch": 5, "least_iou": 0.1, "least_stability": 0.1}
    made = make("sam", model=tiny("segment_anything"), **values)
    pictures = convert(made, source, tmp_path / "out")
    assert [picture.shape for picture in pictures] == list(SIZES)
    for picture in pictures:
        assert set(np.unique(picture)) <= {0, 255} and not picture[[0, -1]].any() and not picture[:, [0, -1]].any()
    assert any(picture.any() for picture in pictures)
    np.testing.assert_array_equal(stored(made, source, tmp_path)[0, ..., 2], pictures[1])
    convert(make("sam", model=tiny("segment_anything"), **values, top="lowest"), source, tmp_path / "lowest")
    none = convert(
        make("sam", model=tiny("segment_anything"), **values | {"least_stability": 1.0}), source, tmp_path / "none"
    )
    assert not any(picture.any() for picture in none)


def test_masks_are_those_of_the_library(tiny, source):
    made = make("sam", model=tiny("segment_anything"), points_per_side=3, least_iou=0.1, least_stability=0.1)
    assert isinstance(made, sam.SAM)
    loaded, processor = models.load(made, "transformers", "SamModel"), models.processor(made)
    given = sam.inputs.prepared(processor, np.asarray(Image.open(source / "1.png")))
    with torch.inference_mode():
        embedded = loaded.model.get_image_embeddings(given.tensors["pixel_values"][None])
        reshaped = given.tensors["reshaped_input_sizes"].tolist()
        points = torch.from_numpy(sam.grid(3) * np.float32(reshaped[::-1]))
        masks, scores = made._masks(loaded, embedded, points, given)
        _, places, _, _ = processor.generate_crop_boxes(Image.open(source / "1.png"), 64, points_per_crop=3)
        out = loaded.model(image_embeddings=embedded, input_points=places[:, :, 0, None, :].to(points.dtype))
        logits = processor.post_process_masks(
            out.pred_masks, [given.size], mask_threshold=0, reshaped_input_sizes=[reshaped], binarize=False
        )[0]
        runs, qualities, found = processor.filter_masks(
            logits, out.iou_scores[0], given.size, [0, 0, given.size[1], given.size[0]], 0.1, 0.1, 0, 1
        )
    np.testing.assert_allclose(scores, qualities, atol=1e-6)
    np.testing.assert_array_equal(sam.boxes(torch, masks), found)
    decoded = [transformers.models.sam.image_processing_pil_sam._rle_to_mask(run) for run in runs]
    np.testing.assert_array_equal(masks, decoded)


def test_segmentation(tiny, source, tmp_path):
    for number, model in enumerate((tiny("segformer"), tiny("mask2former"))):
        made = make("segmentation", model=model)
        pictures = convert(made, source, tmp_path / f"{number}")
        assert [picture.shape for picture in pictures] == [(*size, 3) for size in SIZES]
        ade20k = {tuple(colour) for colour in segmentation.colours.ade20k().tolist()}
        assert {tuple(c) for picture in pictures for c in picture.reshape(-1, 3).tolist()} <= ade20k
        kept = tmp_path / f"kept_{number}"
        count = (150, 7)[number]
        channels = stored(made.replace(channels_of="class", classes=count), source, kept)
        assert channels.shape[-1] == count and set(np.unique(channels)) <= {0, 255} and channels.any()
    given = folder.Input("", np.asarray(Image.open(source / "1.png")), "0" * 32)
    running = segmentation.segmenter(make("segmentation", model=tiny("segformer")))
    (found,) = running.run([running.prepare(given)])
    processor, module = models.processor(make("depth", model=tiny("segformer"))), None
    module = transformers.SegformerForSemanticSegmentation.from_pretrained(tiny("segformer"))
    with torch.inference_mode():
        out = module(**processor(images=given.image, return_tensors="pt"))
    (expected,) = processor.post_process_semantic_segmentation(out, target_sizes=[found.classes.shape])
    np.testing.assert_array_equal(found.classes, expected)
    assert len(found.names) == 150


def test_detection(tiny, source, tmp_path):
    made = make("detection", model=tiny("detr"), threshold=0.0)
    pictures = convert(made, source, tmp_path / "out")
    assert [picture.shape for picture in pictures] == [(*size, 3) for size in SIZES]
    assert all((picture != 255).any() for picture in pictures)
    bare = convert(made.replace(named=False), source, tmp_path / "bare")
    assert all((a != 255).sum() > (b != 255).sum() for a, b in zip(pictures, bare, strict=True))
    running = detection.detector(made, 0.0)
    (found,) = running.run([running.prepare(folder.Input("", np.zeros((40, 60, 3), np.uint8), "0" * 32))])
    assert found.boxes.shape == (len(found.names), 4) and (np.diff(found.scores) <= 0).all() and len(found.names)
    assert found.num_classes == 1203 and all(name.startswith("thing ") for name in found.names)
    empty = convert(made.replace(threshold=1.0), source, tmp_path / "none")
    assert all((picture == 255).all() for picture in empty)


def test_classes_without_names_are_not_named(source, tmp_path):
    numbered = make("detection", model=save(tmp_path / "detr", *tiny_models.detr(named=False)), threshold=0.0)
    with pytest.raises(UserError, match="no names for its 1,203 classes: .*id2label"):
        convert(numbered, source, tmp_path / "out")
    assert (convert(numbered.replace(named=False), source, tmp_path / "bare")[0] != 255).any()


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_backbones_of_another_package_name_it(tiny, tmp_path):
    shutil.copytree(tiny("detr"), tmp_path / "detr")
    path = tmp_path / "detr" / "config.json"
    backbone = {"model_type": "timm_backbone", "backbone": "resnet18"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "backbone_config": backbone}))
    with pytest.raises(UserError, match="needs the package timm, which is not installed.*adapters.*or timm alone"):
        transformations.transform(
            make("detection", model=str(tmp_path / "detr")), np.zeros((1, 8, 8, 3), np.uint8), KEY
        )


def test_reconstruction(source, tmp_path):
    model = save(tmp_path / "vae", tiny_models.autoencoder())
    made = make("sd_vae", model=model, size=16)
    pictures = convert(made, source, tmp_path / "out")
    assert [picture.shape for picture in pictures] == [(*size, 3) for size in SIZES]
    found = stored(made, source, tmp_path)
    # Convolutions of other batches round differently.
    assert np.abs(found[0].astype(int) - pictures[1]).max() <= 1


def test_pictures_of_captions(source, tmp_path):
    pixels = [np.asarray(Image.open(source / f"{i}.png")) for i in range(4)]
    rows = [{"image": f"{i}.png", "caption": f"a {['dog', 'cat', 'dog'][i]}"} for i in range(3)]
    rows[1]["digest"] = collections.digest(pixels[1])
    captions = tmp_path / "captions.jsonl"
    captions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = make(
        "text_to_image", model=save(tmp_path / "model", tiny_models.pipeline()), captions=str(captions), size=16
    )
    found = adapters.convert_folder(made, source, tmp_path / "out")
    assert sorted(found.failed) == ["3.png", "bad.png"] and "has no caption" in found.failed["3.png"]
    pictures = [np.asarray(Image.open(path)) for path in found.outputs.values()]
    assert len(pictures) == 3 and all(picture.shape == (16, 16, 3) for picture in pictures)
    assert (pictures[0] != pictures[2]).any()  # one caption, another seed
    # In a comparison images are known by the digests of what they were before they were resized.
    place = transformations.Place(digests=np.array([rows[1]["digest"]]), folder=tmp_path / "kept")
    kept = transformations.transform(made, pixels[1][None, ::2, ::2], KEY, place)
    assert np.abs(kept[0].astype(int) - pictures[1]).max() <= 1
    with pytest.raises(UserError, match="1 of 1 images have no output: .* has no caption"):
        transformations.transform(made, pixels[3][None], KEY, transformations.Place())


def test_samples_of_a_transformer_per_collection(source, tmp_path):
    for seed in (0, 1):
        tiny_models.dit(seed).save_pretrained(tmp_path / f"{seed}")
    places = {name: str(tmp_path / f"{seed}") for seed, name in enumerate(("a", "b"))}
    made = make("dit", models=places, steps=3)
    pictures = convert(make("dit", model=places["a"], steps=3), source, tmp_path / "out")
    assert pictures[0].shape == (16, 16, 3) and (pictures[0] != pictures[1]).any()
    images = np.stack([np.asarray(Image.open(source / f"{i}.png")) for i in (1, 3)])
    first, second = (transformations.transform(made, images, KEY, transformations.Place(state=name)) for name in places)
    assert first.shape == (2, 16, 16, 3) and (first != second).any()
    assert np.abs(first[0].astype(int) - pictures[1]).max() <= 1
    with pytest.raises(UserError, match="models has no model for c. .* each of these names and no others: a, b, c"):
        transformations.transform(made, images, KEY, transformations.Place(state="c"))


def test_a_comparison(tiny, tmp_path):
    config = {
        "seed": 0,
        "bias": {
            "sets": {
                "forms": {
                    "of": {"kind": "image_set", "part": "all", "limit": 80, "size": 16},
                    "parts": {"plain": {}, "coarse": {"shrink": 2}},
                }
            },
            "main": "forms",
            "transformations": {
                "depth": {"kind": "depth", "model": tiny("depth"), "batch_size": 32},
                "both": {"kind": "concatenation", "parts": ["identity", {"kind": "depth", "model": tiny("depth")}]},
            },
            "classifier": {"kind": "linear", "epochs": 5, "batch_size": 8},
            "repeats": 1,
            "controls": 1,
            "num_train": 20,
            "num_validation": 10,
        },
    }
    found = study.run(config, tmp_path / "run")["transformations"]
    assert found["depth"]["accuracy"]["value"] > 0.7  # what is coarse is coarse in depth, whatever the weights
    kept = list((tmp_path / "run" / "transformed").rglob("*.png"))
    assert 60 <= len(kept) <= 80 and (tmp_path / "run" / "report.html").exists()
    assert len(list((tmp_path / "run" / "transformed").glob("depth-*"))) == 1  # both transformations use one
    assert study.run(config, tmp_path / "run")["transformations"]["depth"] == found["depth"]


def test_weights_of_another_model_are_refused(tiny, tmp_path, source):
    images = np.zeros((1, 32, 32, 3), np.uint8)
    with pytest.raises(UserError, match="segformer"):
        transformations.transform(make("depth", model=tiny("segformer")), images, KEY)
    headless = save(
        tmp_path / "headless",
        transformers.SegformerModel(transformers.SegformerConfig.from_pretrained(tiny("segformer"))),
    )
    transformers.SegformerImageProcessorPil().save_pretrained(headless)
    with pytest.raises(UserError, match="has no weights for .* parts .*decode_head"):
        transformations.transform(make("segmentation", model=headless), images, KEY)
    with pytest.raises(UserError, match=r"depth.model 'owner/name' is neither .*hf download owner/name"):
        transformations.transform(make("depth", model="owner/name"), images, KEY)
    weights = next(path for path in (tmp_path / "headless").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be loaded"):
        transformations.transform(make("segmentation", model=headless), images, KEY)
