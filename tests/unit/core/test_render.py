"""Markdown as Matrix content: readable, complete, and nothing in it that acts."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.render import build_text_content, render_markdown

ALLOWED_TAGS = {
    *("h1", "h2", "h3", "h4", "h5", "h6", "p", "br", "hr", "blockquote", "a", "strong", "em", "s"),
    *("del", "code", "pre", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td"),
}
MARKDOWN = st.text(
    alphabet=st.sampled_from("ab *_`~#>-+|[]()!<>&\"'\\\n\t1.:/=@") | st.characters(), max_size=300
)


class Collector(HTMLParser):
    """Every tag with its attributes, and the text between."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def collect(text: str) -> Collector:
    collector = Collector()
    collector.feed(render_markdown(text).formatted_body or "")
    collector.close()
    return collector


def html_of(text: str) -> str:
    return render_markdown(text).formatted_body or ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("**b** *i* ~~s~~ `c`", "<strong>b</strong> <em>i</em> <s>s</s> <code>c</code>"),
        ("# T", "<h1>T</h1>"),
        ("a\nb", "a<br>\nb"),
        ("- a\n- b", "<ul>\n<li>a</li>\n<li>b</li>\n</ul>"),
        ("3. c", '<ol start="3">'),
        ("- [x] done\n- [ ] open", "<li>☑ done</li>\n<li>☐ open</li>"),
        ("| a |\n|---|\n| 1 |", "<td>1</td>"),
        ("```python\nx < 1\n```", '<code class="language-python">x &lt; 1\n</code>'),
        ("```c++\n```", '<code class="language-c++">'),
        ("[t](https://e.org/?a=1&b=2)", '<a href="https://e.org/?a=1&amp;b=2">t</a>'),
        ("<https://e.org>", '<a href="https://e.org">https://e.org</a>'),
        ("> q", "<blockquote>"),
        ("[1]: https://e.org\n\n**x**", "[1]: https://e.org"),
    ],
)
def test_markdown_becomes_matrix_html(text: str, expected: str) -> None:
    assert expected in html_of(text)


@pytest.mark.parametrize("text", ["plain", "a < b & c \"quoted\" 'x'", "x  ", "<b>raw</b>", ""])
def test_text_without_markup_has_no_html(text: str) -> None:
    assert render_markdown(text).formatted_body is None


def test_the_body_is_the_markdown_itself() -> None:
    assert render_markdown("\n\n# T\n\n- a\n").body == "# T\n\n- a"


@pytest.mark.parametrize(
    "text",
    [
        "**x** <script>alert(1)</script>",
        "**x** <img src=x onerror=alert(1)>",
        "**x** <mx-reply>forged</mx-reply>",
        "[x](javascript:alert(1)) **y**",
        "[x](data:text/html;base64,AAAA) **y**",
        "[x](vbscript:x) **y**",
        '```"><script>alert(1)</script>\ncode\n```',
        "```a onclick=x\ncode\n```",
        '[x](https://e.org "\\" onclick=alert(1) x=\\"")',
    ],
)
def test_nothing_in_the_html_can_run(text: str) -> None:
    for tag, attributes in collect(text).tags:
        assert tag in ALLOWED_TAGS
        assert set(attributes) <= {"href", "title", "class", "start"}
        assert re.match(r"(https?|mailto):", attributes.get("href") or "https:")
        assert re.fullmatch(r"language-[\w+#.-]+", attributes.get("class") or "language-x")


@pytest.mark.parametrize(
    "text",
    ["![alt](https://e.org/p.png)", "![alt](mxc://e.org/x)", "[![alt](https://e.org/p.png)](x)"],
)
def test_an_image_becomes_a_link_and_nothing_is_loaded(text: str) -> None:
    page = collect(text)
    assert "alt" in page.text
    assert "img" not in [tag for tag, _ in page.tags]


@pytest.mark.parametrize(
    "text",
    [
        "**hi** [Alice](https://matrix.to/#/@alice:example.org)",
        "**hi** [Alice](https://MATRIX.to/#/%40alice%3Aexample.org)",
        "**hi** [Alice](matrix:u/alice:example.org)",
        "**hi** <https://matrix.to/#/@alice:example.org>",
        "**hi** ![Alice](https://matrix.to/#/@alice:example.org)",
    ],
)
def test_a_link_to_a_person_becomes_text_and_makes_no_pill(text: str) -> None:
    page = collect(text)
    assert "lice" in page.text
    assert "a" not in [tag for tag, _ in page.tags]


def test_a_message_mentions_nobody_whatever_it_says() -> None:
    content = build_text_content("@room **wake up** @alice:example.org")
    assert content["m.mentions"] == {}
    assert content["msgtype"] == "m.text"
    assert content["format"] == "org.matrix.custom.html"
    assert build_text_content("x", notice=True) == {
        "msgtype": "m.notice",
        "body": "x",
        "m.mentions": {},
    }


@pytest.mark.parametrize("text", ["> " * 200 + "deep", "- " * 60 + "deep", "[" * 5000 + "x"])
def test_what_nests_too_deeply_stays_plain_and_complete(text: str) -> None:
    rendered = render_markdown(text)
    assert rendered.formatted_body is None
    assert rendered.body == text


@pytest.mark.parametrize(
    "pattern",
    ["-\n-&\n>", "=~![**&\t", "[!~\\*!", "![", "[", "*a_", "`a", "<a~**", "- a\n", "~~**\n"],
)
def test_no_text_takes_longer_than_its_length_allows(pattern: str) -> None:
    text = (pattern * 25_000)[:25_000]
    started = time.perf_counter()
    render_markdown(text)
    # Measured: at most 0.7 s; without the bounds the first pattern takes a minute.
    assert time.perf_counter() - started < 10


@settings(max_examples=300, deadline=None)
@given(MARKDOWN)
def test_any_text_gives_harmless_html_or_none(text: str) -> None:
    for tag, attributes in collect(text).tags:
        assert tag in ALLOWED_TAGS
        assert set(attributes) <= {"href", "title", "class", "start"}
        assert re.match(r"(https?|mailto):", attributes.get("href") or "https:", re.IGNORECASE)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet="abcäß漢", min_size=1), min_size=1), st.data())
def test_no_word_of_the_text_is_missing_from_the_html(
    words: list[str], data: st.DataObject
) -> None:
    glue = st.sampled_from(
        [" ", "\n", "\n\n", "\n- ", "\n> ", "\n# ", " **", "** ", " `", "` ", "\n1. "]
    )
    text = "".join(word + data.draw(glue) for word in words)
    rendered = render_markdown(text)
    if rendered.formatted_body is None:
        return
    shown = re.sub(r"\s+", "", collect(text).text)
    assert [word for word in words if word not in shown] == []
