"""The plots of a run, inlined.

Belongs here: putting drawings into the page, within its size. Does not belong here: drawing (`plots`).
"""

import base64
import html
import re
from pathlib import Path

from jaxarena.experiment.plots import INK
from jaxarena.experiment.report.parts import note

_MAX_SVG_BYTES = 400_000
#: Sections of pictures: title, explanation, names of plots (or how they begin).
_PICTURES = (
    (
        "Equity and drawdown",
        "Medians over the evaluated markets; bands hold the middle 80 %.",
        ("equity", "drawdown"),
    ),
    (
        "Prices that the market made",
        "One evaluated market; the memory of returns over all of them; and what each role gained from each other, at "
        "the hidden value in the end, before fees, where buyers and sellers of an auction are matched pro rata.",
        ("auction",),
    ),
    ("Portfolios", "Shares of equity in one evaluated market.", ("weights",)),
    ("Market flow", "Who bought and who sold in one evaluated market.", ("flow",)),
    ("Learning", "Logged while training; thin lines are seeds.", ("learning",)),
)


def sections(plots: Path, budget: int) -> list[tuple[str, str]]:
    """Titles and pictures of each kind of plot that exists; plots of no known kind come last.

    Args:
        plots: the folder of drawings.
        budget: bytes that all pictures together may take.
    """
    paths = sorted(plots.glob("*.svg")) if plots.is_dir() else []
    known = tuple(start for _, _, starts in _PICTURES for start in starts)
    others = ("Further plots", "", tuple(p.stem for p in paths if not p.stem.startswith(known)))
    found = []
    for title, text, starts in (*_PICTURES, others):
        figures = []
        for path in dict.fromkeys(path for start in starts for path in paths if path.stem.startswith(start)):
            figure = _figure(path)
            budget -= len(figure.encode())
            figures.append(figure if budget > 0 else f"<p>See plots/{html.escape(path.name)}; left out for size.</p>")
        if figures:
            single = " single" if len(figures) == 1 else ""
            found.append((title, note(text) + f'<div class="pictures{single}">{"".join(figures)}</div>'))
    return found


def _figure(path: Path) -> str:
    """An inlined plot: SVG that takes the page's text colour, or PNG where the SVG is large and a PNG exists."""
    png = path.with_suffix(".png")
    if path.stat().st_size > _MAX_SVG_BYTES and png.is_file():
        data = base64.b64encode(png.read_bytes()).decode()
        image = f'<img alt="{_label(path)}" src="data:image/png;base64,{data}">'
        return f'<figure class="scroll" tabindex="0">{image}</figure>'
    svg = path.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(
        r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', rf'<svg \1 role="img" aria-label="{_label(path)}">', svg, count=1
    )
    return f'<figure class="scroll" tabindex="0">{_own_ids(svg, path.stem).replace(INK, "currentColor")}</figure>'


def _label(path: Path) -> str:
    return html.escape(path.stem.replace("_", " "))


def _own_ids(svg: str, stem: str) -> str:
    """Keep the ids that the drawing refers to, made unique on the page; drop the others."""
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{stem}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{stem}-\1)", svg)
    return re.sub(r'xlink:href="#([^"]+)"', rf'href="#{stem}-\1"', svg)
