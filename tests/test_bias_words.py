"""What models say of images: tables, questions, rankings, without a model; and what is said where there is none."""

import base64
import json
import math
import sys
import types

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from jaxweights.bias import annotations, auroc, embeddings, language, objects, questions
from jaxweights.bias.adapters import annotation, presence
from jaxweights.bias.adapters.detection import Detections
from jaxweights.bias.adapters.folder import Running
from jaxweights.bias.adapters.segmentation import Segmented
from jaxweights.bias.adapters.sentences import Recipe
from jaxweights.bias.language import encoder, proposals
from jaxweights.bias.language.proposals import ProposalSettings
from jaxweights.bias.protocol import wilson
from jaxweights.bias.subject import Sizes
from jaxweights.errors import UserError


def test_areas_are_those_of_the_curves():
    rng, own = np.random.default_rng(0), np.arange(60) % 3 == 0
    scores = (rng.normal(size=(4, 60)) + 0.5 * own).round(1)  # with ties
    found = auroc.areas(scores, own)
    assert [one.value for one in found] == pytest.approx([roc_auc_score(own, row) for row in scores])
    assert all(0 < one.low < one.value < one.high < 1 and one.n == 60 for one in found)
    flipped = auroc.areas(-scores, own)
    assert [(1 - one.high, 1 - one.low) for one in flipped] == [pytest.approx((one.low, one.high)) for one in found]


def test_intervals_of_areas_have_the_true_one_in_them_as_often_as_they_say():
    rng, own = np.random.default_rng(1), np.arange(60) < 20
    scores = rng.normal(size=(1000, 60)) + own
    truth = (1 + math.erf(0.5)) / 2
    assert 0.93 < np.mean([one.low < truth < one.high for one in auroc.areas(scores, own)]) < 0.97
    (perfect,) = auroc.areas(np.arange(60)[None] < 20, own)
    assert perfect.value == perfect.high == 1 and 0.8 < perfect.low < 1


def test_the_best_of_many_random_scores_is_no_finding():
    rng, own = np.random.default_rng(2), np.arange(80) < 40
    exceeds = [
        max(one.value for one in auroc.areas(scores, own)) > auroc.best_at_random(scores, own, seed)
        for seed, scores in enumerate(rng.normal(size=(40, 10, 80)))
    ]
    assert np.mean(exceeds) <= 0.15
    with pytest.raises(UserError, match="of one group"):
        auroc.areas(np.zeros((1, 3)), np.ones(3, bool))
    with pytest.raises(UserError, match="not finite"):
        auroc.areas(np.full((1, 2), np.nan), np.array([True, False]))


TEXTS = {"x": [f"a sofa {i}" for i in range(9)], "y": [f"a tree {i}" for i in range(9)], "z": ["one", "two", "three"]}


def test_proposals_are_asked_for_with_captions_of_both_groups():
    told, options = language.from_texts(TEXTS), ProposalSettings(rounds=2, captions=3, count=5)
    asked = proposals.queries(told, options, seed=0)
    assert [query.name for query in asked] == [f"proposal_{k}_0000{i}" for k in (1, 2, 3) for i in (0, 1)]
    first, second = asked[0].prompt.split("Group B:")
    assert first.count("\n- a sofa") == 3 and second.count("\n- ") == 3 and "sofa" not in second
    assert asked[0].prompt != asked[1].prompt and asked == proposals.queries(told, options, seed=0)
    with pytest.raises(UserError, match="z or the others have fewer than 4"):
        proposals.queries(told, ProposalSettings(rounds=1, captions=4), seed=0)


def test_proposals_are_the_list_items_of_answers():
    said = {
        "proposal_1_00000": 'Here they are:\n- "Sofas indoors"\n* **Red things.**\n\n1. trees',
        "proposal_1_00001": "2) sofas indoors\n-\n- Red things",
        "proposal_2_00000": "nothing",
    }
    assert proposals.read(said, 2) == [["Sofas indoors", "Red things.", "trees"], []]


def test_proposals_are_ranked_by_the_images():
    labels = np.repeat([0, 1, 2], 20)
    scores = [np.stack([labels == 1, labels == 0, np.zeros(60)]).astype(float), np.zeros((0, 60)), np.ones((1, 60))]
    found = proposals.rank([["false", "true", "void"], [], ["c"]], scores, labels, ("x", "y", "z"), seed=0)
    assert list(found) == ["x", "z"] and found["z"]["ranked"][0]["value"] == 0.5
    assert [(one["proposal"], one["value"]) for one in found["x"]["ranked"]] == [
        ("true", 1),
        ("void", 0.5),
        ("false", 0.25),
    ]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("Yes.", True), ("no", False), ("  NO, but yes", False), ("It is not", None), ("yesterday", None), ("", None)],
)
def test_an_answer_says_yes_or_no_or_neither(answer, expected):
    assert questions.is_yes(answer) is expected


def test_rates_of_yes_have_wilson_intervals(tmp_path):
    rows = [{"image": str(i), "answers": {"person": "Yes" if i < 3 else "No", "zebra": "hm"}} for i in range(10)]
    (tmp_path / "b.csv").write_text("image,question,answer\n1,zebra,yes\n1,person,no\n")
    found = questions.rates(questions.read({"a": write(tmp_path / "a.jsonl", rows), "b": str(tmp_path / "b.csv")}))
    assert list(found) == ["person", "zebra"]
    assert found["person"]["a"] == {**wilson(3, 10).to_json(), "unreadable": 0}
    assert found["zebra"]["a"] == {"value": None, "ci95": None, "n": 0, "unreadable": 10}
    assert found["zebra"]["b"]["value"] == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"image": "1", "answer": "yes"}, "without `image`, `question`"),
        ({"image": "1", "answers": {"person": "yes"}}, "a were not asked all of person, zebra"),
        ({"image": "2", "question": "zebra", "answer": "yes"}, "twice for the image 2"),
    ],
)
def test_bad_tables_of_answers_are_refused(tmp_path, row, message):
    good = [{"image": "2", "answers": {"person": "yes", "zebra": "no"}}]
    rows = [row] if "answers" in row else [*good, row]
    with pytest.raises(UserError, match=message):
        questions.read({"a": write(tmp_path / "a.jsonl", rows), "b": write(tmp_path / "b.jsonl", good)})


def embedded(folder, name, vectors, weights="w"):
    """A table as `launch.annotate --task=embed` writes it."""
    rows = [{"image": str(i), "embedding": embeddings.encoded(v)} for i, v in enumerate(vectors)]
    (folder / name).mkdir()
    facts = {"model": "clip", "revision": "main", "dtype": "float32", "weights": weights}
    (folder / name / "manifest.json").write_text(json.dumps(facts))
    return write(folder / f"{name}.jsonl", rows)


def test_embeddings_of_as_many_images_of_every_collection(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    paths = {"a": embedded(tmp_path, "a", vectors), "b": embedded(tmp_path, "b", 2 * vectors[:3])}
    found = embeddings.read(paths, seed=0)
    assert found.labels.tolist() == [0] * 3 + [1] * 3 and found.model == ("clip", "main", "float32", "w")
    np.testing.assert_allclose(found.vectors[3:], vectors[:3] / np.linalg.norm(vectors[:3], axis=1)[:, None], rtol=1e-6)
    with pytest.raises(
        UserError, match=r"of different models: a by clip of w \(4 numbers\), b by clip of w .*, c by clip of v"
    ):
        embeddings.read({**paths, "c": embedded(tmp_path, "c", vectors, "v")}, seed=0)
    with pytest.raises(UserError, match="no direction"):
        embeddings.read({**paths, "d": embedded(tmp_path, "d", np.zeros((1, 4)))}, seed=0)
    broken = write(tmp_path / "a.jsonl", [{"embedding": base64.b64encode(b"123").decode()}])
    with pytest.raises(UserError, match="no base64"):
        embeddings.read({"a": broken}, seed=0)


def test_scores_of_lists_of_names_are_read(tmp_path):
    rows = [{"image": "1", "names": ["dog", "cat"], "scores": [0.9, 0.2]}, {"image": "2", "names": [], "scores": []}]
    other = write(tmp_path / "b.jsonl", [{"image": "1", "name": "cat"}])
    found = objects.read({"a": write(tmp_path / "a.jsonl", rows), "b": other}, least_score=0.5)
    assert found.names == ("cat", "dog") and found.present.tolist() == [[0, 1], [0, 0], [1, 0]]
    with pytest.raises(UserError, match="not one score per name"):
        objects.read({"a": write(tmp_path / "a.jsonl", [{**rows[0], "scores": [1]}]), "b": other})


def test_names_of_what_is_detected_and_segmented():
    scores = np.array([0.9, 0.5, 0.25], np.float32)
    found = Detections(np.zeros((3, 4), np.float32), ("dog", "cat", "dog"), scores, np.arange(3), (4, 4), 9)
    classes = Segmented(np.array([[1, 1], [1, 0]], np.int16), ("sky", "sea", "sand"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(presence.detection, "detector", lambda *_, **__: Running(lambda batch: [found] * len(batch)))
        patch.setattr(
            presence.segmentation, "segmenter", lambda *_, **__: Running(lambda batch: [classes] * len(batch))
        )
        detect, segment = (
            kind(model="m").step().begin() for kind in (presence.DetectSettings, presence.SegmentSettings)
        )
        assert detect.run([None] * 2) == [{"names": ["dog", "cat", "dog"], "scores": [0.9, 0.5, 0.25]}] * 2
        assert segment.run([None]) == [{"names": ["sea", "sky"], "scores": [0.75, 0.25]}]


def test_unknown_tasks_and_an_absent_extra_say_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    with pytest.raises(UserError, match=r"no task 'capton'.*did you mean caption"):
        annotation.make("capton", {})
    with pytest.raises(UserError, match=r"no setting caption.lenght.*length"):
        annotation.make("caption", {"lenght": "paragraph"})
    for name in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in annotation.TABLES:
        task = annotation.make(name, {"model": "owner/name"})
        assert annotation.outputs(task, tmp_path / "images", tmp_path / "out") == (1, 0)
        with pytest.raises(UserError, match=r'pip install "jaxweights\[adapters\]"'):
            annotation.annotate(task, tmp_path / "images", tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.json*"))
    with pytest.raises(UserError, match="lies in the source"):
        annotation.annotate(task, tmp_path / "images", tmp_path / "images")


def test_learning_rates_rise_and_follow_a_cosine():
    recipe = Recipe(2, 1e-3, 1e-5, 0.1, 8)
    rates = [recipe.rate(step, 100) for step in range(100)]
    assert rates[0] == 0 and rates[5] == pytest.approx(5e-4) and max(rates) == rates[10] == pytest.approx(1e-3)
    assert rates[55] == pytest.approx((1e-3 + 1e-5) / 2) and rates[99] == pytest.approx(1e-5, rel=0.1)
    assert Recipe(1, 1e-3, 0.0, 0.0, 8).rate(0, 1) == 1e-3


@pytest.mark.parametrize("chosen_on", ["training", "validation"])
def test_recipes_are_chosen_on_what_is_said_and_told_subsets_are_kept(tmp_path, monkeypatch, chosen_on):
    told = language.from_texts({k: [f"{k} {word}" for word in "abcdefghijklmnopqrst"] for k in ("sofa", "tree")})
    trained = []

    def train(settings, texts, labels, num_classes, recipe, seed):
        trained.append(len(texts))
        right = recipe.learning_rate == 0.1
        return lambda asked: np.array([right == text.startswith("tree") for text in asked], int)

    monkeypatch.setattr(encoder, "sentences", types.SimpleNamespace(train=train))
    options = encoder.EncoderSettings(
        model=str(tmp_path), frozen=False, tuned=True, epochs=(1,), learning_rates=(0.2, 0.1), chosen_on=chosen_on
    )
    sizes = Sizes(repeats=2, controls=1, num_train=10, num_validation=5, seed=0)
    found = encoder.classify(told, sizes, options, tmp_path / "kept")
    assert (
        found["tuned"]["accuracy"]["value"] == 1
        and found["tuned"]["chosen"] == [{"epochs": 1, "learning_rate": 0.1}] * 2
    )
    assert trained[:3] == ([18, 18, 20] if chosen_on == "training" else [20] * 3)
    count = len(trained)
    assert encoder.classify(told, sizes, options, tmp_path / "kept") == found and len(trained) == count
    encoder.classify(told, sizes, options.replace(batch_size=64), tmp_path / "kept")
    assert len(trained) == 2 * count


def test_a_study_of_answers_alone(tmp_path):
    rows = [{"image": str(i), "answers": {"person": "yes" if i % 2 else "no"}} for i in range(4)]
    paths = {name: write(tmp_path / f"{name}.jsonl", rows) for name in ("a", "b")}
    found = annotations.run({"questions": {"collections": paths}}, tmp_path / "run")
    assert found["questions"]["person"]["a"]["value"] == 0.5
    assert "Is there at least one person" in (tmp_path / "run" / "report.html").read_text()
    language_section = {"collections": paths, "encoder": {"model": "m", "tuned": True}, "prompts": {"queries": 2}}
    lines = dict(annotations.rows({"language": language_section, "questions": {"collections": paths}}))
    assert lines["questions"] == "a / b" and lines["encoder"] == "m, frozen and trained by 12 recipes"
    assert lines["prompts"] == "14" and lines["asked"] == "no model"
    with pytest.raises(UserError, match="questions.collections is empty"):
        annotations.parse({"questions": {}})
    section = {"collections": paths, "proposals": {"rounds": 1, "embeddings": {"a": "a.jsonl"}}}
    with pytest.raises(UserError, match=r"embeddings is of a, but descriptions of a, b"):
        annotations.parse({"language": section})
