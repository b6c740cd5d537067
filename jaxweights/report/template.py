"""The frame and the style sheet of `report.html`."""

from __future__ import annotations

import html

STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #5a646e; --line: #dfe3e8; --ground: #f6f7f9;
  --card: #fff; --accent: #1f6fb2; --copies: #b3261e; --variations: #c2410c; --mixtures: #a15c00;
  --collapsed: #7b3fa0; --novel: #1a7f45; --none: #5a646e; --shade: rgba(0, 0, 0, .28); }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a3adb7; --line: #363d45; --ground: #14171a;
  --card: #1d2125; --accent: #7db8ea; --copies: #ff8a80; --variations: #ff9e66; --mixtures: #ffbf66;
  --collapsed: #d3a4f0; --novel: #6fd39a; --none: #a3adb7; --shade: rgba(255, 255, 255, .3); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); line-height: 1.5; overflow-wrap: break-word;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1.2rem 1rem 3rem; }
header h1 { font-size: 1.6rem; line-height: 1.2; margin: .3rem 0; }
header p, figcaption, small, section > p { color: var(--soft); }
h2 { font-size: 1.15rem; margin: 0 0 .6rem; }
h3 { font-size: 1.05rem; margin: 0 0 .3rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; padding: 1rem;
  margin: 1rem 0; }
#verdicts { background: none; border: 0; padding: 0; }
.checks { border-radius: .7rem; padding: .6rem 1rem; border: 1px solid; margin: 1rem 0; }
.pass { color: var(--novel); }
.fail { color: var(--copies); font-weight: 600; }
.cards { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
article { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; padding: .8rem 1rem; }
article p { margin: 0; }
.copies { --tone: var(--copies); }
.variations { --tone: var(--variations); }
.interpolates, .affine-mixture { --tone: var(--mixtures); }
.collapsed { --tone: var(--collapsed); }
.as-novel-as-new-runs, .beats-yes { --tone: var(--novel); }
.beats-no { --tone: var(--copies); }
.beats-undecided, .beats-not-evaluated { --tone: var(--none); }
.main article { border-left: .4rem solid var(--tone, var(--none)); padding: 1rem 1.2rem; }
.main h3 { font-size: 1.05rem; font-weight: 500; color: var(--soft); }
.answer { font-size: 1.5rem; font-weight: 700; line-height: 1.25; color: var(--tone, var(--none)); margin: 0 0 .1rem; }
.second { font-size: 1.02rem; font-weight: 600; margin: 0 0 .6rem; }
.second b { color: var(--tone, var(--none)); }
.keys { display: flex; flex-wrap: wrap; gap: .2rem 1.6rem; margin: .2rem 0 .6rem; }
.keys div { font-size: .82rem; color: var(--soft); }
.keys b { display: block; font-size: 1.1rem; color: var(--ink); font-variant-numeric: tabular-nums; }
.scale { position: relative; height: 1.1rem; margin: .5rem 0 .1rem; border-radius: .55rem; background:
  linear-gradient(to right, color-mix(in srgb, var(--copies) 45%, transparent), var(--line) 40%, var(--line) 60%,
  color-mix(in srgb, var(--novel) 30%, transparent)); }
.scale i { position: absolute; top: 0; bottom: 0; background: var(--tone, var(--none)); opacity: .45; }
.scale b { position: absolute; top: -.15rem; bottom: -.15rem; width: .3rem; margin-left: -.15rem; border-radius: .15rem;
  background: var(--tone, var(--none)); }
.scale u { position: absolute; top: -.1rem; bottom: -.1rem; left: 50%; border-left: 2px dashed var(--ink); }
.ends { display: flex; justify-content: space-between; font-size: .78rem; color: var(--soft); margin: 0 0 .7rem; }
.badge { display: inline-block; border: 1px solid; border-radius: 1rem; padding: 0 .6rem; font-size: .82rem;
  font-weight: 600; white-space: nowrap; color: var(--tone, var(--soft)); }
.cite pre { overflow-x: auto; background: var(--ground); border: 1px solid var(--line); border-radius: .4rem;
  padding: .7rem; font-size: .8rem; white-space: pre-wrap; }
.scroll { overflow-x: auto; -webkit-overflow-scrolling: touch; background:
  linear-gradient(to right, var(--card) 30%, transparent) left / 2.5rem 100% local,
  linear-gradient(to left, var(--card) 30%, transparent) right / 2.5rem 100% local,
  linear-gradient(to right, var(--shade), transparent) left / .9rem 100% scroll,
  linear-gradient(to left, var(--shade), transparent) right / .9rem 100% scroll;
  background-repeat: no-repeat; }
.hint { display: none; margin: 0 0 .3rem; font-size: .8rem; color: var(--soft); }
.hint.wide { display: block; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: .35rem .4rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
.numbers thead th:nth-child(n+3) { min-width: 4.4rem; }
thead th { font-size: .8rem; color: var(--soft); vertical-align: bottom; }
tbody th { font-weight: 600; position: sticky; left: 0; background: var(--card); }
.numbers small { display: block; font-size: .7rem; white-space: nowrap; font-weight: 400; }
.numbers b { font-weight: 600; }
.plain td, .plain th { padding: .15rem .6rem; }
.plain th, .facts th { font-weight: 400; }
.facts th { color: var(--soft); }
.facts thead { display: none; }
.facts td { overflow-wrap: anywhere; }
.none { color: var(--soft); }
figure { margin: 0; }
.paper { --card: #fff; --shade: rgba(0, 0, 0, .28); background-color: #fff; border-radius: .4rem; }
.paper img { mix-blend-mode: multiply; }
img { display: block; width: 100%; height: auto; margin: 0 auto; }
figcaption { margin-top: .6rem; font-size: .92rem; }
details { margin-top: .8rem; }
summary { cursor: pointer; color: var(--accent); margin-bottom: .5rem; }
a { color: var(--accent); }
dt { font-weight: 600; }
dd { margin: 0 0 .6rem; }
@media (max-width: 40rem) { main { padding: .8rem .5rem 2rem; } section { padding: .8rem .7rem; } }
"""

# Says above what is wider than the screen that it scrolls; without JavaScript its shaded edge does.
SCRIPT = """
(function () {
  var boxes = Array.prototype.map.call(document.querySelectorAll(".scroll"), function (box) {
    var hint = document.createElement("p");
    hint.textContent = "\\u2194 scrolls sideways";
    box.parentNode.insertBefore(hint, box);
    return [box, hint];
  });
  function look() {
    boxes.forEach(function (pair) {
      var wide = pair[0].scrollWidth > pair[0].clientWidth + 1;
      pair[1].className = wide ? "hint wide" : "hint";
      if (wide) pair[0].tabIndex = 0; else pair[0].removeAttribute("tabindex");
    });
  }
  addEventListener("load", look);
  addEventListener("resize", look);
  document.addEventListener("toggle", look, true);
  look();
})();
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>{title}</h1><p>{facts}</p></header>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""


def filled(title: str, facts: str, body: str) -> str:
    """A page.

    Args:
      title: its heading, plain text.
      facts: the paragraph below, plain text.
      body: its parts, HTML.
    """
    return PAGE.format(title=html.escape(title), style=STYLE, facts=html.escape(facts), body=body, script=SCRIPT)
