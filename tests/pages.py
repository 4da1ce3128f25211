"""What holds of every page of ours."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "input"}


class Reader(HTMLParser):
    """Checks nesting, and keeps what matters of every element."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def check(text):
    """What holds of every page of ours; returns its elements."""
    read = Reader(text)
    tags = [tag for tag, _ in read.elements]
    assert tags.count("h1") == tags.count("title") == tags.count("main") == 1 and "script" not in tags
    html = dict(read.elements)["html"]
    assert html["lang"] == "en" and any(a.get("name") == "viewport" for t, a in read.elements if t == "meta")
    ids = [attrs["id"] for _, attrs in read.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in read.elements:
        for key in ("href", "src", "xlink:href"):
            assert attrs.get(key, "#").startswith(("#", "data:")), (tag, attrs)
            if tag == "a":
                assert attrs["href"].removeprefix("#") in ids
        assert tag != "img" or attrs["alt"].strip()
        assert attrs.get("role") != "img" or attrs["aria-label"].strip()
        assert not [key for key in attrs if key.startswith("on")]
    assert len(text.encode()) < 5 * 2**20
    return read
