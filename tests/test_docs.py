"""README and docs: links, names, command lines and the README's size; the examples of every page run."""

import ast
import contextlib
import functools
import importlib.util
import io
import pathlib
import re
import shlex
from typing import NamedTuple

import jax
import pytest

import jaxweights
from launch import config_file

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md")
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
GETTING_STARTED = ROOT / "docs" / "getting-started.md"
# The README's examples have the sizes of the demo; made smaller, the page of first steps begins with the same calls.
SMALLER = {
    "runs=512, heldout=128": "runs=32, heldout=12, epochs=2",
    "zoo.train, seed=0": "zoo.train, seed=0, autoencoder_steps=20, diffusion_steps=20",
    "model, 256": "model, 16",
    "heldout, samples)": "heldout, samples, bootstrap=100)",
}
# What audits of examples leave at its default.
CHEAPER = {
    "barriers": 4,
    "battery": {"permutations": 9, "bootstrap": 9, "halves": 2},
    "baselines": ("noise_low", "average", "interpolation"),
}


class Block(NamedTuple):
    """A fenced block: what stands behind the fence, its text, and the line where it begins."""

    info: str
    text: str
    line: int


def blocks(page):
    found, text = [], page.read_text()
    for match in re.finditer(r"^```(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE):
        found.append(Block(match[1].strip(), match[2], text[: match.start()].count("\n") + 2))
    return found


def commands(page):
    """The command lines of programs in indented blocks."""
    text = page.read_text().replace("\\\n", " ")
    for match in re.finditer(r"python -m (launch\.\w+)(.*?)(?:`|$)", text, re.MULTILINE):
        yield match[1], shlex.split(match[2].partition("  #")[0])


def flags_of(program):
    """The names of the flags that a program and what it imports of launch define."""
    found, waiting, seen = {"help"}, [program], set()
    while waiting:
        name = waiting.pop()
        path = ROOT / (name.replace(".", "/") + ".py")
        if name in seen or not path.exists():
            continue
        seen.add(name)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "launch":
                waiting += [f"launch.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "").startswith("DEFINE"):
                found.add(node.args[0].value)
    return found


def keys(tree):
    """All keys of nested dicts."""
    for key, value in tree.items():
        yield key
        if isinstance(value, dict):
            yield from keys(value)


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page):
    return [name for name in re.findall(r"\]\(([^)]+)\)", page.read_text()) if not name.startswith("http")]


def test_the_readme_is_short():
    lines = README.read_text().splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []


def test_every_page_is_linked():
    linked = {name for page in (README, ROOT / "docs" / "index.md") for name in links(page)}
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages <= {pathlib.Path(name.partition("#")[0]).name for name in linked}


def test_every_page_has_an_example():
    assert [page.name for page in PAGES[:-1] if not any(b.info == "python" for b in blocks(page))] == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page):
    for link in links(page):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_named_files_exist(page):
    text = page.read_text()
    for name in re.findall(r"\b(?:configs|launch|jaxweights|tests)/[\w/.]*\w", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"`((?:auditing|zoo|nn|nets|evaluation)/\w+\.py|\w+\.py)`", text):
        assert (ROOT / "jaxweights" / name).exists(), name
    for name in re.findall(r"\blaunch\.(\w+)", text):
        assert (ROOT / "launch" / f"{name}.py").exists(), name


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_command_lines_parse(page):
    for program, arguments in commands(page):
        known = flags_of(program)
        for argument in arguments:
            name = argument.lstrip("-").partition("=")[0]
            assert argument.startswith("--") and name.partition(".")[0] in known, (program, argument)
        config_file.prepare([program, *arguments])


def calls(text):
    """The first five statements of an example."""
    return tuple(ast.unparse(node) for node in ast.parse(text).body[:5])


@pytest.fixture(scope="module")
def first_steps():
    """The names that the README's example leaves, for the page that begins with the same calls."""
    return {}


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda page: str(page.relative_to(ROOT)))
def test_examples_run(page, first_steps, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setattr(jaxweights, "audit", functools.partial(jaxweights.audit, **CHEAPER))
    # Runs are filled up to whole lanes of all devices, and examples train few.
    monkeypatch.setattr(jaxweights, "train_zoo", functools.partial(jaxweights.train_zoo, lanes=6))
    namespace = {"__name__": "page"}
    for block in blocks(page):
        if block.info == "python torch" and importlib.util.find_spec("torch") is None:
            continue
        if block.info not in ("python", "python torch"):
            assert block.info == "python no-run", f"line {block.line}: unknown kind of block {block.info!r}"
            continue
        text = block.text
        if page == README:
            for large, small in SMALLER.items():
                assert large in text, f"SMALLER is about another README: {large}"
                text = text.replace(large, small)
        if page == GETTING_STARTED and (made := first_steps.pop(calls(text), None)):
            namespace |= made
            continue
        code = compile("\n" * (block.line - 1) + text, str(page), "exec")
        with jax.numpy_rank_promotion("allow"), contextlib.redirect_stdout(io.StringIO()):
            exec(code, namespace)
        if page == README:
            first_steps[calls(text)] = namespace
    if page.name == "audit.md":
        metrics = namespace["metrics"]
        series = metrics["series"]["generated"]
        missing = {key for key in keys({**metrics, "series": series, "versions": {}}) if key not in page.read_text()}
        assert not missing
