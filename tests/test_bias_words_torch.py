"""What pre-trained models say of images, with tiny models of their architectures and random weights."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra adapters is not installed")
transformers = pytest.importorskip("transformers", reason="the extra adapters is not installed")

from PIL import Image  # noqa: E402
from tokenizers import Tokenizer, pre_tokenizers, processors  # noqa: E402
from tokenizers.models import WordLevel  # noqa: E402

from jaxweights.bias import annotations, auroc, embeddings, language, objects, questions  # noqa: E402
from jaxweights.bias.adapters import annotation, clip, sentences, vision_language  # noqa: E402
from jaxweights.bias.language import encoder as encoders  # noqa: E402
from jaxweights.bias.subject import Sizes  # noqa: E402
from jaxweights.errors import UserError  # noqa: E402

WORDS = ["a", "the", "sofa", "tree", "red", "yes", "no", "in", "USER", "ASSISTANT", ":", ".", "?"]
NAMED = {"id2label": {i: f"thing {i}" for i in range(4)}, "label2id": {f"thing {i}": i for i in range(4)}}
SPECIAL = ("<unk>", "<pad>", "<s>", "</s>", "<image>")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads cost tiny models more than they bring, most of all beside other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of five pictures of three sizes."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(5):
        path = folder / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + i % 3, 24, 3), np.uint8)).save(path)
    return folder


def tokenizer(**options):
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    core = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", vocabulary["<s>"]), ("</s>", vocabulary["</s>"])]
    )
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    made = transformers.PreTrainedTokenizerFast(tokenizer_object=core, **names, **options)
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return made


VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION |= {"image_size": 16, "patch_size": 8, "projection_dim": 16}
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder, words = tmp_path_factory.mktemp("llava"), tokenizer()
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION),
        text_config=transformers.LlamaConfig(**TEXT, vocab_size=len(words), max_position_embeddings=128),
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(**SQUARE),
        words,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip_model(tmp_path_factory):
    folder, words = tmp_path_factory.mktemp("clip"), tokenizer(model_max_length=16)
    torch.manual_seed(0)
    text = {**TEXT, "vocab_size": len(words), "max_position_embeddings": 16}
    text |= {"eos_token_id": words.eos_token_id, "bos_token_id": words.bos_token_id}
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8)
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessor(**SQUARE).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def table(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_captions_are_the_greedy_ones_of_the_model_itself(tmp_path, images, llava):
    task = annotation.make("caption", {"model": str(llava), "max_new_tokens": 6, "batch_size": 3})
    made = annotation.annotate(task, images, tmp_path)
    rows = table(made.place)
    assert made.place == tmp_path / "caption.jsonl" and [row["image"] for row in rows] == sorted(made.converted.outputs)
    model = transformers.LlavaForConditionalGeneration.from_pretrained(llava).eval()
    processor = transformers.LlavaProcessor.from_pretrained(llava)
    text = "USER: <image>\nDescribe this image in one sentence. ASSISTANT:"
    for row in rows:
        given = processor(images=Image.open(images / row["image"]), text=text, return_tensors="pt")
        said = model.generate(**given, do_sample=False, max_new_tokens=6)[0, given["input_ids"].shape[1] :]
        assert row["caption"] == " ".join(processor.decode(said, skip_special_tokens=True).split())
    processor.chat_template = (
        "{% for turn in messages %}USER: {% for part in turn['content'] %}{% if part['type'] == 'image' %}<image>\n"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
    )
    assert vision_language.turn(processor, "Describe this image in one sentence.") == text
    manifest = json.loads((tmp_path / "caption" / "manifest.json").read_text())
    assert manifest["model"] == str(llava) and manifest["length"] == "sentence" and "fingerprint" in manifest["weights"]
    with pytest.raises(UserError, match="length: 'sentence' -> 'paragraph'"):
        annotation.annotate(task.replace(length="paragraph"), images, tmp_path)


def test_questions_are_answered_one_by_one(tmp_path, images, llava):
    task = annotation.make("check", {"model": str(llava), "batch_size": 10})
    rows = table(annotation.annotate(task, images, tmp_path / "a").place)
    assert all(list(row["answers"]) == list(questions.QUESTIONS) for row in rows) and len(rows) == 5
    alone = table(annotation.annotate(task.replace(batch_size=5), images, tmp_path / "b").place)
    assert alone == rows
    paths = {name: str(tmp_path / name / "check.jsonl") for name in "ab"}
    assert questions.rates(questions.read(paths))["person"]["a"]["unreadable"] <= 5


def test_labels_are_the_classifiers_first_class(tmp_path, images):
    torch.manual_seed(0)
    names = {0: "yfcc", 1: "cc"}
    vision = {**VISION, "id2label": names, "label2id": {v: k for k, v in names.items()}}
    del vision["projection_dim"]
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**vision)).eval()
    model.save_pretrained(tmp_path / "vit")
    processor = transformers.ViTImageProcessor(size={"height": 16, "width": 16})
    processor.save_pretrained(tmp_path / "vit")
    task = annotation.make("label", {"model": str(tmp_path / "vit"), "collection": "yfcc"})
    rows = table(annotation.annotate(task, images, tmp_path / "a").place)
    for row in rows:
        given = processor(images=Image.open(images / row["image"]), return_tensors="pt")
        chances = model(**given).logits.softmax(dim=-1)[0].detach()
        assert row["name"] == row["predicted"] == names[int(chances.argmax())]
        assert row["score"] == pytest.approx(float(chances.max()), abs=1e-5)
    path = str(tmp_path / "a" / "label.jsonl")
    presence = objects.read({"yfcc": path, "cc": path})
    right, found = objects.read_reference(path, presence)
    assert len(found) == 5 and right.tolist() == [row["name"] == "yfcc" for row in rows]


def test_classes_of_a_segmentation_are_the_librarys(tmp_path, images):
    torch.manual_seed(0)
    names = {i: f"class {i}" for i in range(12)}
    config = transformers.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8, id2label=names
    )
    model = transformers.SegformerForSemanticSegmentation(config).eval()
    model.save_pretrained(tmp_path / "model")
    processor = transformers.SegformerImageProcessorPil(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "model")
    task = annotation.make("segment", {"model": str(tmp_path / "model")})
    for row in table(annotation.annotate(task, images, tmp_path / "out").place):
        picture = Image.open(images / row["image"])
        with torch.inference_mode():
            found = model(**processor(images=picture, return_tensors="pt"))
        (classes,) = processor.post_process_semantic_segmentation(found, target_sizes=[picture.size[::-1]])
        assert sorted(row["names"]) == sorted(names[i] for i in classes.unique().tolist())
        assert row["scores"][0] == pytest.approx(
            float(classes.unique(return_counts=True)[1].max() / classes.numel()), abs=1e-5
        )


def test_objects_are_those_of_the_detector(tmp_path, images):
    torch.manual_seed(0)
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, out_features=["stage2", "stage3", "stage4"]
    )
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 5, "num_feature_levels": 3}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    config = transformers.DeformableDetrConfig(backbone_config=backbone, use_timm_backbone=False, **NAMED, **sizes)
    transformers.DeformableDetrForObjectDetection(config).save_pretrained(tmp_path / "model")
    processor = transformers.DeformableDetrImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 128})
    processor.save_pretrained(tmp_path / "model")
    task = annotation.make("detect", {"model": str(tmp_path / "model"), "threshold": 0.0})
    made = annotation.annotate(task, images, tmp_path / "out")
    rows = table(made.place)
    assert len(rows) == 5 and all(row["scores"] == sorted(row["scores"], reverse=True) for row in rows)
    assert {name for row in rows for name in row["names"]} <= set(NAMED["id2label"].values())
    middle = float(np.median([score for row in rows for score in row["scores"]]))
    found = objects.read({"a": str(made.place), "b": str(made.place)}, least_score=middle)
    expected = [
        {name for name, score in zip(row["names"], row["scores"], strict=True) if score >= middle} for row in rows
    ]
    assert [set(np.array(found.names)[one]) for one in found.present[:5]] == expected


def test_images_and_texts_are_embedded_as_by_the_model_itself(tmp_path, images, clip_model):
    task = annotation.make("embed", {"model": str(clip_model), "batch_size": 2})
    place = annotation.annotate(task, images, tmp_path).place
    found = embeddings.read({"a": str(place), "b": str(place)}, seed=0)
    model = transformers.CLIPModel.from_pretrained(clip_model).eval()
    processor = transformers.CLIPImageProcessor.from_pretrained(clip_model)
    pictures = [Image.open(images / row["image"]) for row in table(place)]
    texts = ["a red sofa", "the tree in the tree", "a"]
    given = tokenizer(model_max_length=16)(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        both = model(pixel_values=processor(images=pictures, return_tensors="pt")["pixel_values"], **given)
    np.testing.assert_allclose(found.vectors[:5], both.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(clip.embed_texts(found.model, texts), both.text_embeds.numpy(), atol=1e-5)
    with pytest.raises(UserError, match="other weights"):
        clip.embed_texts(found.model._replace(weights="others"), texts)


def test_descriptions_are_ranked_by_the_images_of_a_study(tmp_path, images, clip_model):
    task = annotation.make("embed", {"model": str(clip_model)})
    for name in "xy":
        annotation.annotate(task, images / ("a" if name == "x" else "b"), tmp_path / name)
        (tmp_path / f"{name}.txt").write_text("\n".join(f"{WORDS[i % 7]} {name * (i + 1)}" for i in range(30)))
    section = {
        "collections": {name: str(tmp_path / f"{name}.txt") for name in "xy"},
        "proposals": {"rounds": 1, "captions": 5, "embeddings": {n: str(tmp_path / n / "embed.jsonl") for n in "xy"}},
        **{"repeats": 1, "controls": 1, "num_validation": 5},
    }
    folder = tmp_path / "run"
    assert annotations.run({"language": section}, folder)["language"]["proposals"] == {}
    assert (folder / "prompts" / "proposal_2_00000.txt").read_text().count("\n- ") == 10
    (folder / "answers" / "someone").mkdir(parents=True)
    answer = json.dumps({"answer": "- a red sofa\n- the tree"})
    (folder / "answers" / "someone" / "proposal_1_00000.json").write_text(answer)
    found = annotations.run({"language": section}, folder)["language"]["proposals"]["someone"]
    seen = embeddings.read(section["proposals"]["embeddings"], seed=0)
    scores = clip.embed_texts(seen.model, ["a red sofa", "the tree"]) @ seen.vectors.T
    expected = dict(zip(["a red sofa", "the tree"], auroc.areas(scores, seen.labels == 0), strict=True))
    assert list(found) == ["x"] and len(seen.labels) == 4
    assert {one["proposal"]: one["value"] for one in found["x"]["ranked"]} == {k: v.value for k, v in expected.items()}
    assert "the tree" in (folder / "report.html").read_text()


def test_a_model_of_another_kind_is_refused(tmp_path, images, clip_model):
    task = annotation.make("label", {"model": str(clip_model)})
    with pytest.raises(UserError, match="random|cannot be loaded"):
        annotation.annotate(task, images, tmp_path)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    parts = pytest.importorskip("sentence_transformers", reason="the extra adapters is not installed")
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    words = tokenizer(model_max_length=16)
    bert = transformers.BertConfig(**TEXT, vocab_size=len(words), max_position_embeddings=16)
    transformers.BertModel(bert).save_pretrained(folder / "bert")
    words.save_pretrained(folder / "bert")
    made = parts.SentenceTransformer(str(folder / "bert"), device="cpu")
    made.save(str(folder / "whole"))
    return folder / "whole"


def test_an_encoder_learns_to_tell_captions_apart(tmp_path, encoder):
    rng = np.random.default_rng(0)
    told = language.from_texts(
        {
            name: [
                " ".join(rng.permutation([name, *rng.choice(WORDS[4:7], 3), "a" * (i % 7 + 1)])) + f" {i}"
                for i in range(40)
            ]
            for name in ("sofa", "tree")
        }
    )
    options = encoders.EncoderSettings(
        model=str(encoder), tuned=True, epochs=(12,), learning_rates=(1e-5, 1e-2), batch_size=10
    )
    sizes = Sizes(repeats=2, controls=1, num_train=25, num_validation=15, seed=0)
    found = encoders.classify(told, sizes, options, tmp_path)
    assert found["tuned"]["accuracy"]["value"] > 0.9 and found["frozen"]["accuracy"]["value"] > 0.6
    assert [one["learning_rate"] for one in found["tuned"]["chosen"]] == [1e-2] * 2
    texts, labels = list(told.texts), told.labels
    recipe = options.recipes[1]
    first, second = (sentences.train(options, texts, labels, 2, recipe, seed=3)(texts) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_program_goes_on_where_it_was(tmp_path, images, clip_model):
    command = [sys.executable, "-m", "launch.annotate", "--task=embed", f"--model={clip_model}", f"--images={images}"]
    command += [f"--out={tmp_path}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(*flags):
        return subprocess.run([*command, *flags], capture_output=True, text=True, check=True, env=environment).stdout

    told = run("--dry_run")
    assert "embed.batch_size" in told and told.split()[-1] == "0" and not list(tmp_path.iterdir())
    run()
    before = table(tmp_path / "embed.jsonl")
    (tmp_path / "embed" / "a" / "0.png.json").unlink()
    assert "5 images" in run()
    again = table(tmp_path / "embed.jsonl")
    assert again[1:] == before[1:] and again[0]["image"] == "a/0.png"  # up to rounding, which other batches change
