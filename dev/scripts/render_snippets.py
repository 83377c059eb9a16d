"""Write sections of the example DAGs into the docs: ``python -m dev.scripts.render_snippets``. A test checks them.

The pages contain the code itself, because GitHub shows them without a build.
"""

from __future__ import annotations

import re
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PAGES = sorted((PROJECT / "docs").rglob("*.md"))

# The markers are those of Airflow's own examples.
_SECTION = re.compile(r"^(?P<indent> *)# \[START (?P<name>\w+)\]\n(?P<code>.*?)\s*^ *# \[END (?P=name)\]$", re.M | re.S)
_SHOWN = re.compile(r"(?<=^<!-- )(?P<name>howto_\w+)(?P<fence> -->\n```python\n).*?^```$", re.M | re.S)


def sections() -> dict[str, str]:
    """Return the code of each section by its name."""
    examples = (file.read_text(encoding="utf-8") for file in (PROJECT / "example_dags").glob("*.py"))
    found = [section for example in examples for section in _SECTION.finditer(example)]
    # textwrap.dedent does not work here, because lines of a multi-line string can start at the margin.
    return {section["name"]: re.sub(f"^{section['indent']}", "", section["code"], flags=re.M) for section in found}


def rendered(page: str) -> str:
    """Return a page with the current code of each section that it shows.

    :raises KeyError: No example DAG has a section that the page shows.
    """
    code = sections()
    return _SHOWN.sub(lambda shown: f"{shown['name']}{shown['fence']}{code[shown['name']]}\n```", page)


if __name__ == "__main__":
    for file in PAGES:
        file.write_text(rendered(file.read_text(encoding="utf-8")), encoding="utf-8")
