"""A table of results as a web page: one file, no links, for a light and a dark screen.

1. cells_of      the cells of a table in Markdown
2. result_page   the page
"""

from html import escape

STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif }
body { max-width: 75em; margin: 2em auto; padding: 0 1em }
div { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .35em .8em; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
th { border-bottom: 2px solid #8888 }
td { border-bottom: 1px solid #8884 }
pre { white-space: pre-wrap }
"""


def cells_of(table: str) -> list[list[str]]:
    """The cells of each row of a table in Markdown, without the line below its head."""
    rows = [line.strip("|").split("|") for line in table.splitlines()]
    return [[cell.strip() for cell in row] for place, row in enumerate(rows) if place != 1]


def result_page(table: str, differences: list[str] = ()) -> str:
    """A page with a table of results, in Markdown, and what was compared, in plain text."""
    head, *rows = cells_of(table)
    lines = [_row("th", head)] + [_row("td", row) for row in rows]
    compared = "".join(f"<pre>{escape(text)}</pre>\n" for text in differences)
    return (
        '<!doctype html>\n<html lang="en"><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>Results</title>\n<style>{STYLE}</style>\n<h1>Results</h1>\n"
        "<div><table>\n" + "".join(lines) + f"</table></div>\n{compared}"
        "<p>Accuracies, F1, format errors, truncated and calls ok in percent; ±: standard error "
        "over questions.</p>\n</html>\n"
    )


def _row(kind: str, cells: list[str]) -> str:
    """A row of cells."""
    return "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in cells) + "</tr>\n"
