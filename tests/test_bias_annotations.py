"""Named objects and captions of collections: what is counted, what is asked, what is refused."""

import http.server
import json
import threading

import numpy as np
import pytest

from jaxweights.bias import annotations, language, objects, protocol
from jaxweights.bias.language import queries, words
from jaxweights.bias.language.prompts import PromptSettings, Query
from jaxweights.bias.protocol import Split
from jaxweights.bias.subject import Sizes
from jaxweights.errors import UserError

SIZES = Sizes(repeats=2, controls=2, num_train=30, num_validation=20, seed=0)


def presence(images=90, bias=0.5, seed=0):
    """Three collections; object k is more frequent in collection k, "common" equally in all, "rare" in one image."""
    rng, labels = np.random.default_rng(seed), np.repeat(np.arange(3, dtype=np.int32), images)
    present = rng.random((3 * images, 5)) < 0.2
    present[:, :3] |= (rng.random((3 * images, 3)) < bias) & (labels[:, None] == np.arange(3))
    present[:, 4] = np.arange(3 * images) == 7
    return objects.Presence(
        ("a", "b", "c"), ("o0", "o1", "o2", "common", "rare"), present, labels, tuple(map(str, range(3 * images)))
    )


def test_objects_betray_their_collection_and_pseudo_collections_do_not():
    found = objects.analyse(presence(), SIZES, least=5)
    for key in ("regression", "majority"):
        assert found[key]["accuracy"]["ci95"][0] > 1 / 3
        low, high = found[key]["control"]["ci95"]
        assert low < 1 / 3 < high
    assert found["regression"]["accuracy"]["repeats"][0] == found["named"]["accuracy"]["value"]
    assert [names[0] for names in found["shares"]["top"].values()] == ["o0", "o1", "o2"]
    best = [{e["feature"]: e["value"] for e in one} for one in found["named"]["coefficients"].values()]
    assert [max(one, key=one.__getitem__) for one in best] == ["o0", "o1", "o2"]
    assert found["shares"]["left_out"] == 1 and "rare" not in found["shares"]["objects"]
    assert max(one["value"] for one in found["named"]["majority"]) > 0.4


def test_shares_are_of_the_images_of_an_object():
    one = presence()
    found = objects.shares(one, least=1)["objects"]["o1"]
    counts = [int(one.present[one.labels == k, 1].sum()) for k in range(3)]
    assert found["images"] == sum(counts)
    assert found["shares"]["b"] == protocol.wilson(counts[1], sum(counts)).to_json()


def test_the_majority_rule_is_the_published_one_for_single_labels():
    rng, labels = np.random.default_rng(1), np.repeat(np.arange(2, dtype=np.int32), 50)
    kind = rng.integers(0, 4, 100) // (1 + labels)
    names = tuple("wxyz")
    one = objects.Presence(("a", "b"), names, np.eye(4, dtype=bool)[kind], labels, tuple(map(str, range(100))))
    rows = rng.permutation(100)
    split = Split(labels, rows[:70], rows[70:])
    counts = np.array(
        [[np.sum((kind == f) & (labels == k) & np.isin(np.arange(100), rows[:70])) for f in range(4)] for k in range(2)]
    )
    np.testing.assert_array_equal(objects.majority(one, split)(rows[70:]), counts.argmax(axis=0)[kind[rows[70:]]])


def test_unique_counts_are_those_of_box_plots():
    from matplotlib.cbook import boxplot_stats

    one = presence()
    counts = one.present.sum(axis=1)[one.labels == 1]
    expected, found = boxplot_stats(counts)[0], objects.unique_counts(one)["b"]
    assert [found[k] for k in ("low", "q1", "median", "q3", "high", "mean")] == pytest.approx(
        [expected[k] for k in ("whislo", "q1", "med", "q3", "whishi", "mean")]
    )


def test_majority_share_and_reference_accuracy_correlate_where_the_model_follows_objects():
    labels = np.repeat(np.arange(2, dtype=np.int32), 100)
    rng = np.random.default_rng(0)
    chances = np.stack([np.linspace(0.1, 0.5, 8), np.full(8, 0.1)])
    one = objects.Presence(
        ("a", "b"), tuple("abcdefgh"), rng.random((200, 8)) < chances[labels], labels, tuple(map(str, range(200)))
    )
    right = rng.random(200) < np.where(one.present[:, 4:].any(axis=1), 0.9, 0.4)
    found = objects.correlation(one, right, np.arange(200), least=3)
    low, high = found["pearson"]["ci95"]
    assert -1 < low < found["pearson"]["value"] < high < 1 and found["pearson"]["value"] > 0
    assert objects.correlation(one, right, np.arange(200), least=10**6)["pearson"] is None


def test_tables_of_every_kind_read_alike(tmp_path):
    (tmp_path / "a.csv").write_text("image,name,score\n1,dog,0.9\n1,dog,0.8\n1,cat,0.1\n2,,\n")
    (tmp_path / "a.jsonl").write_text('{"image": "1", "names": ["dog", "dog"]}\n{"image": "2", "names": []}\n')
    np.savez(tmp_path / "a.npz", names=["dog"], present=[[1], [0]], images=["1", "2"])
    (tmp_path / "b.csv").write_text("image,name\nx,bird\n")
    found = [
        objects.read({"a": str(tmp_path / name), "b": str(tmp_path / "b.csv")}, least_score=0.5)
        for name in ("a.csv", "a.jsonl", "a.npz")
    ]
    assert {one.labelled.facts["digest"] for one in found} == {found[0].labelled.facts["digest"]}
    assert found[0].names == ("bird", "dog") and found[0].present.tolist() == [[0, 1], [0, 0], [1, 0]]


def test_predictions_of_a_reference_model_belong_to_their_images(tmp_path):
    one, path = presence(3), tmp_path / "said.csv"
    path.write_text("collection,image,predicted\nb,4,b\na,0,c\nc,99,c\n")
    right, rows = objects.read_reference(str(path), one)
    assert rows.tolist() == [0, 4] and right.tolist() == [False, True]
    path.write_text("collection,image,predicted\nb,99,b\n")
    with pytest.raises(UserError, match="none of the images"):
        objects.read_reference(str(path), one)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "image,name\n1,dog,3\n", "1 lines of .* are no rows"),
        ("a.csv", "picture,name\n1,dog\n", "without `image`"),
        ("a.jsonl", '{"image": 1, "name"\n', r"first: 1"),
        ("a.jsonl", '{"image": 1, "name": "dog", "score": "x"}\n', "the score 'x'"),
        ("a.txt", "dog\n", "Give a file .csv"),
        ("b.csv", "image,name\n", "have no images"),
    ],
)
def test_bad_tables_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    (tmp_path / "c.csv").write_text("image,name\n1,dog\n")
    with pytest.raises(UserError, match=message):
        objects.read({"a": str(tmp_path / name), "c": str(tmp_path / "c.csv")})


def captions(count=60, seed=0):
    rng = np.random.default_rng(seed)
    own = (("sofa", "kitchen"), ("forest", "mountain"), ("product", "logo"))
    filler = ("red", "green", "large", "little", "old", "bright", "quiet", "round")
    return language.from_texts(
        {
            name: [
                f"a {rng.choice(filler)} {rng.choice(filler)} {rng.choice(own[k])} number {'abcdefghij'[i % 10] * 2}"
                f" {rng.choice(filler)} {'abcdefghij'[i // 10] * 3}"
                for i in range(count)
            ]
            for k, name in enumerate("xyz")
        }
    )


def test_log_odds_are_those_of_the_formula():
    ratio, z = words.log_odds(np.array([8, 2]), np.array([1, 9]), prior=10)
    here, there = 8 + 4.5, 1 + 4.5  # the prior has the proportions 9 : 11
    expected = np.log(here / (20 - here)) - np.log(there / (20 - there))
    assert ratio[0] == pytest.approx(expected)
    assert z[0] == pytest.approx(expected / np.sqrt(1 / here + 1 / there))
    np.testing.assert_allclose(words.log_odds(np.array([4, 6]), np.array([4, 6]))[1], 0, atol=1e-12)


def test_captions_betray_their_collection_by_their_words():
    found = language.analyse(captions(), Sizes(2, 1, 20, 20, 0))
    assert found["classifier"]["accuracy"]["value"] > 0.9
    low, high = found["classifier"]["control"]["ci95"]
    assert low < 1 / 3 < high
    assert {one["word"] for one in found["distinctive"]["x"][:2]} == {"sofa", "kitchen"}
    for topics in found["topics"].values():
        assert len(topics) == 5 and {len(one["words"]) for one in topics} == {5}
        assert sum(one["share"] for one in topics) == pytest.approx(1)
    counts = [one["count"] for one in found["phrases"]["y"]]
    assert counts == sorted(counts, reverse=True) and len(counts) <= 100


def test_phrases_within_equally_frequent_ones_are_left_out():
    found = language.phrases(language.from_texts({"a": ["golden gate bridge"] * 2 + ["a gate"], "b": ["blue sky"]}))
    assert [one["phrase"] for one in found["a"]] == ["gate", "golden gate bridge"]


def test_captions_in_several_collections_are_left_out_with_a_note():
    found = language.from_texts({"a": ["one  cat", "same"], "b": ["Same", "two dogs"]})
    assert found.texts == ("one cat", "two dogs") and "1 captions" in found.notes[0]


def test_prompts_hold_fresh_demonstrations_and_never_what_is_asked_about():
    told, options = captions(), PromptSettings(queries=3, demonstrations=10, summaries=1)
    asked = language.in_context(told, options, seed=0)
    assert [query.truth for query in asked] == [1] * 3 + [2] * 3 + [3] * 3
    held = {told.texts[query.caption] for query in asked}
    shown = [[line[9:] for line in q.prompt.splitlines() if line.startswith("Caption: ")][:-1] for q in asked]
    assert {len(one) for one in shown} == {30} and not held & {text for one in shown for text in one}
    assert shown[0] != shown[1] and asked == language.in_context(told, options, seed=0)
    assert language.summaries(told, options, 0)[0].prompt.count("\n- ") == 30
    condensed = language.condensing(told, ["1: sofas\n2: woods", "- 1: kitchens"])
    assert [query.name for query in condensed] == ["condensed_1", "condensed_2"] and "kitchens" in condensed[0].prompt
    with pytest.raises(UserError, match="need 61"):
        language.in_context(told, PromptSettings(queries=51, demonstrations=10), seed=0)


def test_answers_are_scored_by_their_first_number():
    asked = [Query(str(i), "", truth) for i, truth in enumerate((1, 2, 2, 3, 3))]
    found = queries.score(asked, {"0": "1", "1": "Collection 2.", "2": "3", "3": "no idea"}, 3)
    assert found["accuracy"]["value"] == 0.5 and found["unreadable"] == 1 and found["unanswered"] == 1
    assert found["confusion"] == [[1, 0, 0], [0, 1, 1], [0, 0, 0]]


class _Stub(http.server.BaseHTTPRequestHandler):
    """A chat endpoint that is busy once, then says 1, and refuses the model "absent"."""

    asked: list = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers.get("Authorization"), body))
        status = 503 if len(self.asked) == 1 else 404 if body["model"] == "absent" else 200
        self.send_response(status)
        self.end_headers()
        text = "1: indoors\n2: outdoors" if "patterns" in body["messages"][0]["content"] else "1"
        self.wfile.write(json.dumps({"choices": [{"message": {"content": text}}]}).encode())

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    """The address of a stub."""
    with pytest.MonkeyPatch.context() as patch, http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Stub) as one:
        patch.setenv("STUB_KEY", "secret")
        thread = threading.Thread(target=one.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{one.server_port}/v1"
        one.shutdown()
        thread.join()


def test_a_study_with_a_model(tmp_path, server):
    told = captions(40)
    for k, name in enumerate(told.collections):
        (tmp_path / f"{name}.txt").write_text("\n".join(told.of(k)))
    prompts = {"queries": 2, "demonstrations": 5, "summaries": 1}
    language_section = {
        "collections": {name: str(tmp_path / f"{name}.txt") for name in told.collections},
        **{"repeats": 1, "controls": 1, "num_validation": 10},
        "prompts": prompts,
        "endpoint": {"url": server, "model": "some/model", "key_variable": "STUB_KEY", "wait": 0.0},
    }
    config = {"objects": {"num_validation": 10, "repeats": 1, "controls": 1}, "language": language_section}
    result = annotations.run(config, tmp_path / "run")
    found = result["language"]["models"]["some_model"]
    assert found["accuracy"]["value"] == pytest.approx(1 / 3) and found["recall"] == [1, 0, 0]
    assert list(found["summary"]) == ["x", "y"] and result["objects"]["correlation"]["objects"]
    assert len(list((tmp_path / "run" / "prompts").glob("*.txt"))) == 7
    assert "some_model" in (tmp_path / "run" / "report.html").read_text()
    path, key, body = _Stub.asked[-1]
    assert path == "/v1/chat/completions" and key == "Bearer secret" and body["temperature"] == 0
    assert len(_Stub.asked) == 1 + 7 + 2
    endpoint = language.ChatEndpoint(**language_section["endpoint"])
    asked = language.in_context(told, PromptSettings(**prompts), 0)
    answers = tmp_path / "run" / "answers" / "some_model"
    assert len(queries.ask(endpoint, asked, answers)) == 6 and len(_Stub.asked) == 1 + 7 + 2
    (answers / "in_context_00003.json").unlink()
    queries.ask(endpoint, asked, answers)
    assert len(_Stub.asked) == 1 + 7 + 3
    with pytest.raises(UserError, match="answers another prompt"):
        queries.answers([asked[0]._replace(prompt="")], answers)


def test_what_an_endpoint_refuses_is_said(server):
    _Stub.asked.append(None)  # no longer busy
    with pytest.raises(UserError, match=r"refuses a prompt for absent \(404"):
        language.ChatEndpoint(url=server, model="absent").answer("hello")
    with pytest.raises(UserError, match="cannot be reached"):
        language.ChatEndpoint(url="http://127.0.0.1:9", model="m", tries=1).answer("hello")
    with pytest.raises(UserError, match="give both"):
        language.ChatEndpoint(url=server)
