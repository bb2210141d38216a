"""A page of HTML, parsed for tests."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "input", "track"}


class Page(HTMLParser):
    """A parsed page: its elements, and the text of each."""

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.elements = []
        self.words = []
        self.feed(text)
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag, attrs):
        element = {"tag": tag, "in": [e["tag"] for e in self.open], "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data):
        self.words.append(data)
        for element in self.open:
            element["text"] += data

    def all(self, tag):
        return [element for element in self.elements if element["tag"] == tag]

    def cells(self, caption):
        """The rows of the table with a caption, cell by cell."""
        tables = [e for e in self.all("table") if e["text"].strip().startswith(caption)]
        assert len(tables) == 1
        after = self.elements[self.elements.index(tables[0]) + 1 :]
        rows = []
        for element in after:
            if element["tag"] == "table":
                break
            if element["tag"] == "tr":
                rows.append([])
            if element["tag"] in ("th", "td"):
                rows[-1].append(element["text"])
        return rows

    @property
    def text(self):
        return " ".join("".join(self.words).split())
