"""The frame and the style sheet of `report.html`."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #5a646e; --line: #dfe3e8; --ground: #f6f7f9;
  --card: #fff; --accent: #1f6fb2; --remembers: #b3261e; --interpolates: #a15c00; --invents: #1a7f45;
  --degrades: #5a646e; --novel: #1f6fb2; --shade: rgba(0, 0, 0, .28); }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #a3adb7; --line: #363d45; --ground: #14171a;
  --card: #1d2125; --accent: #7db8ea; --remembers: #ff8a80; --interpolates: #ffbf66; --invents: #6fd39a;
  --degrades: #a3adb7; --novel: #7db8ea; --shade: rgba(255, 255, 255, .3); } }
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
.pass { color: var(--invents); }
.fail { color: var(--remembers); font-weight: 600; }
.cards { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
article { background: var(--card); border: 1px solid var(--line); border-radius: .7rem; padding: .8rem 1rem; }
article p { margin: 0; }
.main article { border-left: .4rem solid var(--degrades); }
.main h3 { font-size: 1.25rem; }
.main article.remembers { border-left-color: var(--remembers); }
.main article.interpolates { border-left-color: var(--interpolates); }
.main article.invents { border-left-color: var(--invents); }
.main article.novel { border-left-color: var(--novel); }
.badge { display: inline-block; border: 1px solid; border-radius: 1rem; padding: 0 .6rem; font-size: .82rem;
  font-weight: 600; white-space: nowrap; }
.badge.remembers { color: var(--remembers); }
.badge.interpolates { color: var(--interpolates); }
.badge.invents { color: var(--invents); }
.badge.degrades { color: var(--degrades); }
.badge.novel { color: var(--novel); }
.badge.undecided, .badge.undefined { color: var(--soft); }
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
