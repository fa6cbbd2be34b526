"""The page as a document: everything of a room's stays words, and nothing is allowed unseen."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from orchestrator.core.approval import ApprovalKind
from orchestrator.core.status_page import (
    POLICY,
    Visit,
    render_login,
    render_overview,
    render_question,
    render_room,
    render_words,
)
from orchestrator.core.status_text import render_text
from orchestrator.core.status_view import SeenTurn, Stage
from orchestrator.model import RoomSlug, TurnId
from tests.support.status_view import make_question, make_room, make_subject, make_view

ADMIN = Visit(may_act=True, csrf="c" * 43, once="o" * 22)
READER = Visit(csrf="c" * 43)
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</title></style><base href=//evil.example>",
    "\u202egnp.exe\u202c",
    "a\u2066b\u2069\u200b\U000e0041",
    "\x1b[2J\x1b]0;title\x07",
    "x" * 100_000,
    "line\nline\r\nline\u2028line",
    "\ud800",
    "&lt;b&gt; &amp; ' \"",
)


class Document(HTMLParser):
    """What a browser would find: elements with their attributes, and the words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def fields(self) -> list[tuple[str | None, str | None]]:
        return [(a.get("name"), a.get("value")) for tag, a in self.elements if tag == "input"]


def test_everything_is_there_that_the_page_is_for() -> None:
    words = Document(render_overview(make_view())).words
    for expected in (
        "@claude:example.org",
        "Bash: npm publish --access public ./dist",
        "@alice:example.org, @*:ops.example.org",
        "at work, 95 s",
        "Bash: npm run build",
        "waits, 12 s",
        "running, up 90 min, 312 MiB of 2 GiB, 14 processes; session kept",
        "timed out",
        "$1.84 of $5.00 today",
        "$27.30 in 30 days",
        "registry.npmjs.org:443",
        "refused",
        "host_not_allowed",
        "All well",
    ):
        assert expected in words, expected


class Silent(str):
    """Stands for every text, whatever it is made of."""

    __slots__ = ()

    def __call__(self, *_: object) -> Silent:
        return self

    def __getitem__(self, _: object) -> Silent:
        return self

    def __getattr__(self, _: str) -> Silent:
        return self


def test_each_word_of_the_page_is_one_of_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, plain = make_room(), make_view(user_id="@", version="0")
    assert busy.runner is not None
    several = replace(busy, turns=busy.turns * 3, runner=replace(busy.runner, state="+"))
    view = replace(plain, rooms=(several,) * 101)
    nothing = replace(plain, rooms=(), questions=(), ends=(), exits=())
    texts = Silent("·")
    monkeypatch.setattr("orchestrator.core.status_page.texts", texts)
    monkeypatch.setattr("orchestrator.core.status_page.utc_time", texts)
    for page in (
        render_overview(view, ADMIN),
        render_overview(nothing),
        render_room(view, several, ADMIN),
        render_room(view, several, READER),
        render_question(view, make_subject("0"), ADMIN),
        render_question(view, make_subject(None, kind=ApprovalKind.QUESTION), READER),
        render_login("0"),
        render_words("0"),
    ):
        words = Document(re.sub("<style>.*?</style>", "", page, flags=re.DOTALL)).words
        assert not re.findall("[A-Za-z]+", words)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_a_room_says_stays_words_wherever_it_stands(hostile: str) -> None:
    turn = SeenTurn(
        turn_id=TurnId("t1"), stage=Stage.WORKS, age_s=1, sender=hostile, tools=(hostile,)
    )
    room = make_room(hostile, turns=(turn,), slug=RoomSlug("release"))
    question = make_question(room=hostile, what=hostile, deciders=(hostile,))
    plain = make_view()
    view = replace(
        plain,
        problems=(hostile[:500],),
        user_id=hostile[:500],
        rooms=(room,),
        questions=(question,),
        ends=(replace(plain.ends[0], room=hostile, sender=hostile),),
        exits=(replace(plain.exits[0], room=hostile, target=hostile, note=hostile, at=hostile),),
    )
    subject = make_subject(hostile, room=hostile, what=hostile, deciders=(hostile,))
    harmless = {
        "overview": render_overview(plain, ADMIN),
        "room": render_room(plain, make_room(turns=make_room().turns[:1]), ADMIN),
        "question": render_question(plain, make_subject("x"), ADMIN),
    }
    pages = {
        "overview": render_overview(view, ADMIN),
        "room": render_room(view, room, ADMIN),
        "question": render_question(view, subject, ADMIN),
    }
    for name, page in pages.items():
        found, expected = Document(page), Document(harmless[name])
        kinds = {tag for tag, _ in found.elements}
        assert kinds <= {tag for tag, _ in expected.elements} | {"p"}, name
        for tag, attributes in found.elements:
            assert not [a for a in attributes if a.startswith("on")], (name, tag)
            for link in (attributes.get("href"), attributes.get("action"), attributes.get("src")):
                assert link is None or link.startswith("/"), (name, link)
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x1b\x07\x00]", page), name
        page.encode()


def test_a_name_is_cut_and_all_of_what_is_decided_is_not() -> None:
    long = "x" * 150_000
    overview = render_overview(make_view(rooms=(make_room(long),)))
    assert len(overview) < 20_000
    assert long in render_question(make_view(), make_subject(long), ADMIN)


def test_a_page_for_many_rooms_stays_small() -> None:
    idle = [make_room(f"room {n}", turns=(), runner=None) for n in range(16_000)]
    page = render_overview(make_view(rooms=(*idle, make_room("the busy one"))))
    assert len(page) < 200_000
    assert page.index("the busy one") < page.index("room 1")
    assert "and 15901 more" in page


def test_it_has_no_script_and_nothing_from_elsewhere_and_its_style_is_the_one_allowed() -> None:
    for page in (
        render_overview(make_view(), ADMIN),
        render_room(make_view(), make_room(), ADMIN),
        render_question(make_view(), make_subject(), ADMIN),
        render_login("no"),
        render_words("x"),
    ):
        assert "<script" not in page
        assert "://" not in page
        assert " style=" not in page
        (style,) = re.findall("<style>(.*?)</style>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        assert f"style-src 'sha256-{digest}'" in POLICY
    assert "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY


def test_the_page_that_looks_again_by_itself_has_nothing_to_press_but_the_way_out() -> None:
    page = Document(render_overview(make_view(), ADMIN))
    assert [a["action"] for tag, a in page.elements if tag == "form"] == ["/logout"]
    refresh = [a for tag, a in page.elements if tag == "meta" and a.get("http-equiv")]
    assert [a["content"] for a in refresh] == ["5;url=/"]
    for page_with_buttons in (
        render_room(make_view(), make_room(), ADMIN),
        render_question(make_view(), make_subject(), ADMIN),
    ):
        assert "http-equiv" not in page_with_buttons


def test_who_only_reads_has_no_button() -> None:
    for page in (
        render_room(make_view(), make_room(), READER),
        render_question(make_view(), make_subject(), READER),
    ):
        assert "/act" not in page
        assert "nothing can be changed here" in page


def test_each_turn_has_a_form_of_its_own_and_so_has_the_runner() -> None:
    fields = Document(render_room(make_view(), make_room(), ADMIN)).fields()
    verbs = [value for name, value in fields if name == "verb"]
    assert verbs == ["cancel", "cancel", "restart"]
    assert [v for n, v in fields if n == "subject"] == ["t1", "t2", ""]
    once = [v for n, v in fields if n == "once"]
    assert len(set(once)) == 3


@pytest.mark.parametrize(
    ("kind", "buttons"),
    [
        (ApprovalKind.TOOL, ["Allow it once", "Refuse it"]),
        (ApprovalKind.PLAN, ["Allow it once", "Refuse it"]),
        (ApprovalKind.EGRESS, ["Allow it for 1 hour", "Refuse it"]),
        (ApprovalKind.QUESTION, ["Refuse it"]),
    ],
)
def test_a_question_offers_the_least_that_can_be_allowed(
    kind: ApprovalKind, buttons: list[str]
) -> None:
    page = render_question(make_view(), make_subject(kind=kind), ADMIN)
    assert re.findall(r'<button class="\w+">([^<]+)<', page) == buttons


def test_what_can_not_be_shown_whole_can_be_refused_and_not_allowed() -> None:
    page = Document(render_question(make_view(), make_subject(None), ADMIN))
    assert [v for n, v in page.fields() if n == "verb"] == ["refuse"]
    assert "nothing is allowed unseen" in page.words


def test_the_form_that_allows_names_what_was_shown() -> None:
    subject = make_subject("rm -rf /")
    page = Document(render_question(make_view(), subject, ADMIN))
    assert ("seen", subject.digest) in page.fields()
    assert "rm -rf /" in page.words


def test_what_is_wrong_is_said_and_a_missing_engine_hides_no_rooms() -> None:
    page = Document(
        render_overview(
            make_view(
                problems=("homeserver: 502",), has_engine=False, rooms=(make_room(runner=None),)
            )
        )
    )
    assert "homeserver: 502" in page.words
    assert "All well" not in page.words
    assert "The engine does not answer" in page.words
    assert "release" in page.words


def test_an_empty_installation_says_so() -> None:
    page = render_overview(make_view(rooms=(), questions=(), ends=(), exits=()))
    for words in ("is in no room", "Nothing waits for a person", "No turn has ended yet"):
        assert words in page


@pytest.mark.parametrize("hostile", HOSTILE)
def test_in_a_terminal_every_line_is_one_whatever_a_room_is_called(hostile: str) -> None:
    plain = render_text(make_view())
    room = make_room(hostile, turns=(replace(make_room().turns[0], tools=(hostile,)),))
    text = render_text(
        make_view(rooms=(room,), questions=(make_question(what=hostile, room=hostile),))
    )
    assert len(text.splitlines()) == len(plain.splitlines()) - 1  # it has a turn less
    assert text.replace("\n", "").isprintable()


def test_the_terminals_form_has_the_same_facts() -> None:
    text = render_text(make_view(problems=("disk: full",)))
    for expected in (
        "! disk: full",
        "tool: Bash: npm publish",
        "at work, 95 s",
        "timed out",
        "evil.example:443 refused (host_not_allowed)",
        "$1.84 today, $27.30 in 30 days",
    ):
        assert expected in text, expected
