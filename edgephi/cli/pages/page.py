"""What all pages are made of: one file of HTML that needs no network, no script and no other file.

Plots are SVG of our own. They are drawn as wide as a telephone's screen, so that they can be read there;
larger screens put two or more side by side. Colours follow the reader's light or dark setting.
"""

import html
from collections.abc import Sequence

_COLOURS = 6

_STYLE = """
:root { color-scheme: light dark; --back: #f6f7f9; --card: #fff; --ink: #16181d; --quiet: #5a6270;
  --rule: #dfe3e9; --c0: #2563c9; --c1: #c2620a; --c2: #23804d; --c3: #7c4dca; --c4: #bd3a4c; --c5: #0f7c8c; }
@media (prefers-color-scheme: dark) { :root {
  --back: #121418; --card: #1b1e24; --ink: #e9ebef; --quiet: #a3abb8; --rule: #343a44;
  --c0: #6ea3f5; --c1: #eb9b4c; --c2: #5dbd88; --c3: #b394f0; --c4: #ee8592; --c5: #4fbccb; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 72rem;
  background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
header { margin-bottom: 1.25rem; }
h1 { margin: 0; font-size: 1.5rem; }
h2 { margin: 2.25rem 0 .75rem; font-size: 1.125rem; }
p { margin: .25rem 0; max-width: 44rem; }
.quiet { color: var(--quiet); }
.wide { overflow-x: auto; background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .75rem; text-align: right; white-space: nowrap; }
th:first-child, td.text, th.text { text-align: left; }
thead th { color: var(--quiet); font-weight: 500; vertical-align: bottom; }
tbody th { font-weight: 600; }
tbody tr { border-top: 1px solid var(--rule); }
tbody tr.first { border-top-width: 2px; }
.swatch { display: inline-block; width: .7em; height: .7em; margin-right: .45em; border-radius: .15em; }
.plots { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
figure { margin: 0; padding: .9rem 1rem 1rem; background: var(--card); border: 1px solid var(--rule);
  border-radius: .5rem; }
figcaption { font-weight: 600; }
figcaption .quiet { display: block; margin-bottom: .5rem; font-weight: 400; font-size: .8125rem; }
.legend { display: flex; flex-wrap: wrap; gap: 0 1rem; margin: 0 0 .75rem; padding: 0; list-style: none;
  font-size: .8125rem; }
svg { display: block; width: 100%; height: auto; }
.legend svg { display: inline; width: .75em; height: .75em; margin-right: .35em; }
svg .value { text-anchor: end; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
svg .label { fill: var(--quiet); }
svg .range { stroke: var(--ink); stroke-width: 1.5; }
svg .limit { stroke: var(--ink); stroke-width: 2; stroke-dasharray: 2 2; }
svg .base { stroke: var(--rule); }
"""


def page(title: str, facts: Sequence[str], parts: Sequence[str]) -> str:
    """The whole of a page: its title, lines of plain text about it, and parts that are HTML already."""
    first, *others = facts
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escaped(title)}</title>",
            f"<style>{_STYLE}</style>",
            "<body>",
            "<header>",
            f"<h1>{escaped(title)}</h1>",
            f"<p>{escaped(first)}</p>",
            *(f'<p class="quiet">{escaped(fact)}</p>' for fact in others),
            "</header>",
            "<main>",
            *parts,
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def figure(title: str, unit: str, drawing: str, legend: Sequence[tuple[str, str]] = ()) -> str:
    """A plot with its caption, and a legend of marks, HTML already, and what each stands for."""
    listed = ""
    if legend:
        items = "".join(f"<li>{mark}{escaped(name)}</li>" for mark, name in legend)
        listed = f'<ul class="legend" aria-hidden="true">{items}</ul>'
    return (
        f'<figure><figcaption>{escaped(title)} <span class="quiet">{escaped(unit)}</span></figcaption>'
        f"{listed}{drawing}</figure>"
    )


def table(
    about: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text: Sequence[int] = (),
    every: int = 0,
) -> str:
    """A table of cells that are HTML already; a stronger rule before each `every` rows."""

    def kind(column: int) -> str:
        return ' class="text"' if column in text else ""

    head = "".join(f'<th scope="col"{kind(i)}>{escaped(cell)}</th>' for i, cell in enumerate(header))
    body = []
    for number, (name, *cells) in enumerate(rows):
        first = ' class="first"' if every and number % every == 0 else ""
        data = "".join(f"<td{kind(i)}>{cell}</td>" for i, cell in enumerate(cells, start=1))
        body.append(f'<tr{first}><th scope="row">{name}</th>{data}</tr>')
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escaped(about)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def swatch(number: int) -> str:
    """A small square of the colour of that number."""
    return f'<span class="swatch" style="background: {colour_of(number)}"></span>'


def colour_of(number: int) -> str:
    """The colour of that number, for a style or an attribute; there are six, which then come again."""
    return f"var(--c{number % _COLOURS})"


def escaped(text: str) -> str:
    """A text as HTML that shows it, also within an attribute."""
    return html.escape(text)
