"""Write the tables and charts of the documentation from the reports in ``results/``.

    python benchmarks/render.py [--check]

``docs/explanation/benchmarks.md`` holds a place for each suite, between two comments. What stands
there is made of the reports alone, so that no figure is typed by hand. With ``--check`` nothing is
written, and the exit code is 1 if the page is not what the reports say.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from approxhub.bench import SUITES, Report
from approxhub.bench.present import markdown

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "explanation" / "benchmarks.md"
CHARTS = PAGE.parent / "benchmarks"


def reports(folder: Path = RESULTS) -> dict[str, Report]:
    """All reports of a folder, by the names of their files."""
    return {path.stem: Report.read(path) for path in sorted(folder.glob("*.json"))}


def place(suite: str) -> re.Pattern[str]:
    """Where a suite's tables stand in the page."""
    marks = (re.escape(f"<!-- {word}: {suite} -->\n") for word in ("begin", "end"))
    return re.compile("(.*?)".join(f"({mark})" for mark in marks), re.DOTALL)


def rendered(page: str, found: dict[str, Report]) -> str:
    """The page with what the reports say."""
    for suite in SUITES:
        texts = [_section(suite, name, report) for name, report in found.items()]
        text = "\n".join(t for t in texts if t) or "No report of this suite is committed yet.\n"
        pattern = place(suite)
        if len(pattern.findall(page)) != 1:
            raise SystemExit(f"{PAGE} must hold the comments of suite {suite!r} once")
        page = pattern.sub(lambda m, text=text: f"{m[1]}\n{text}\n{m[3]}", page)
    return page


def _section(suite: str, name: str, report: Report) -> str:
    if not report.of(suite):
        return ""
    chart = CHARTS / name / f"{suite}.svg"
    image = f"![{suite}]({chart.relative_to(PAGE.parent).as_posix()})\n" if chart.exists() else ""
    return markdown(report, suite) + image


def main(arguments: list[str]) -> int:
    """Write the page, or check it."""
    found = reports()
    if "--check" not in arguments:
        from approxhub.bench.charts import check_folder, draw_charts

        for name, report in found.items():
            check_folder(CHARTS / name)
            draw_charts(report, CHARTS / name)
    before = PAGE.read_text(encoding="utf-8")
    after = rendered(before, found)
    if "--check" in arguments:
        return int(before != after)
    PAGE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
