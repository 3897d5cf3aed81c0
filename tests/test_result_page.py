"""support/result_page.py: the table of an evaluation as a page of its own."""

import re
from html.parser import HTMLParser

from support.result_page import result_page

TABLE = """| data | questions | avg@k |
|---|---|---|
| <b>&a | 4 x 1 | 25.0 ± 1.5 |
| aime24 | 30 x 5 | 13.3 ± 2.0 |"""


class Cells(HTMLParser):
    """The cells of a page's table, tags that are not closed, and whatever loads something."""

    def __init__(self, page):
        super().__init__()
        self.cells, self.opened, self.loads = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "!doctype"):
            self.opened.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        if self.opened and self.opened[-1] in ("td", "th"):
            self.cells[-1] += data


def test_the_page_has_every_cell_and_loads_nothing():
    page = result_page(TABLE, ["b.json - a.json: 4 questions <in both>"])
    found = Cells(page)
    rows = [["data", "questions", "avg@k"], ["<b>&a", "4 x 1", "25.0 ± 1.5"]]
    rows.append(["aime24", "30 x 5", "13.3 ± 2.0"])
    assert found.cells == [cell for row in rows for cell in row] and not found.opened
    assert not found.loads and not re.search(r"https?:|url\(|@import", page)
    assert "<pre>b.json - a.json: 4 questions &lt;in both&gt;</pre>" in page and len(page) < 3000
