"""The demo's result as a web page that needs nothing but its own folder."""

from __future__ import annotations

import shutil
from decimal import Decimal
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import httpx

if TYPE_CHECKING:
    from collections.abc import Sequence

    from demo.catalogue_run import ProductVideo

_CENT = Decimal("0.01")

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --quiet: #777; --card: #fff; --ground: #f4f4f2; }
@media (prefers-color-scheme: dark) { :root { --quiet: #999; --card: #1d1f21; --ground: #121314; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 2.5rem 1.5rem; background: var(--ground); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; }
h1 { margin: 0; font-size: 1.6rem; font-weight: 650; }
header p { margin: .3rem 0 2rem; color: var(--quiet); }
article { margin-bottom: 1.5rem; padding: 1.5rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; }
h2 { margin: 0; font-size: 1.15rem; }
.prompt { margin: .2rem 0 1rem; }
.media { display: flex; gap: 1rem; height: 20rem; }
figure { display: flex; flex: 1 1 0; flex-direction: column; min-width: 0; margin: 0; }
figure img, figure video { flex: 1; min-height: 0; width: 100%; object-fit: contain; background: #8881;
  border-radius: 8px; }
figcaption { padding-top: .3rem; color: var(--quiet); font-size: .8rem; }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: 1rem 0 0; font-size: .9rem; }
dt { color: var(--quiet); font-size: .8rem; }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) { .media { flex-direction: column; height: 34rem; } }
"""


def write_page(folder: Path, videos: Sequence[ProductVideo], summary: str) -> Path:
    """Write ``index.html`` into ``folder``, with copies of the source pictures, and return its path.

    :param summary: A sentence for the head of the page.
    :param folder: Must hold the video files, so that the page plays them from where they are.
    :raises ValueError: A video file lies outside ``folder``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    articles = [_article(video, _copy_picture(video, folder), video.file.relative_to(folder)) for video in videos]
    page = folder / "index.html"
    page.write_text(_document(articles, summary), encoding="utf-8")
    return page


def money(amount: Decimal | None) -> str:
    """Return US dollars as people write them; an unknown amount is said to be unknown, not shown as nothing."""
    if amount is None:
        return "not settled yet"
    exact = amount == amount.quantize(_CENT)
    return f"${amount:.2f}" if exact else f"${amount.normalize():f}"


def _document(articles: Sequence[str], summary: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Product videos</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<header>
<h1>Product videos</h1>
<p>{escape(summary)}</p>
</header>
{"".join(articles)}</main>
</body>
</html>
"""


def _article(video: ProductVideo, picture: Path, file: Path) -> str:
    facts = {
        "Price": money(video.cost),
        "Duration": f"{video.duration} s",
        "Aspect ratio": video.aspect_ratio,
        "Waited": f"{video.waited:.0f} s",
        "Model": video.model,
        "Video id": video.video_id,
        "File": str(file),
    }
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>\n" for name, value in facts.items())
    return f"""<article>
<h2>{escape(video.name)}</h2>
<p class="prompt">{escape(video.prompt)}</p>
<div class="media">
<figure><img src="{_link(picture)}" alt="{escape(video.name)}"><figcaption>The picture</figcaption></figure>
<figure><video src="{_link(file)}" controls loop muted autoplay playsinline></video>
<figcaption>The video</figcaption></figure>
</div>
<dl>
{rows}</dl>
</article>
"""


def _link(path: Path) -> str:
    return escape(quote(path.as_posix()))


def _copy_picture(video: ProductVideo, folder: Path) -> Path:
    """Copy the source picture, a URL or a local file, into ``folder`` and return its path in there."""
    source_path = urlsplit(video.picture).path
    copy = Path("pictures") / f"{video.sku}{Path(source_path).suffix}"
    (folder / copy).parent.mkdir(exist_ok=True)
    if video.picture.startswith(("http://", "https://")):
        answer = httpx.get(video.picture, trust_env=False).raise_for_status()
        (folder / copy).write_bytes(answer.content)
    else:
        shutil.copyfile(source_path, folder / copy)
    return copy
