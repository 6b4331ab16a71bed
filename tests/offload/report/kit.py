"""A page as a browser without a network sees it."""

from html.parser import HTMLParser

FETCHING = {"src", "href", "srcset", "poster", "data", "action", "formaction", "background", "xlink:href"}


class Page(HTMLParser):
    """What is in a page. Text of scripts and styles is kept apart from what a person reads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.meta: dict[str, str] = {}
        self.fetched: list[str] = []
        self.cells: list[str] = []
        self.scripts: list[str] = []
        self.plots: list[str] = []
        self.read = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.fetched += [value for name, value in given.items() if name in FETCHING and not value.startswith("#")]
        if tag == "meta":
            self.meta[given.get("name") or given.get("http-equiv", "charset")] = given.get("content", "")
        else:
            self._open.append(tag)
        if tag == "td":
            self.cells.append("")
        if tag == "script":
            self.scripts.append("")
        if given.get("class") == "plot":
            self.plots.append(given["id"])

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        match self._open[-1] if self._open else "":
            case "script":
                self.scripts[-1] += data
            case "style":
                assert "url(" not in data
                assert "@import" not in data
            case tag:
                self.read += data + "\n"
                if tag == "td":
                    self.cells[-1] += data
