"""Markdown from an agent as the content of Matrix messages.

The result holds nothing that loads by itself (images become links), pings (`m.mentions` is empty,
links to people are plain text) or runs (raw HTML is text; what remains passes an allow-list of tags
that Matrix recommends to clients).
"""

from __future__ import annotations

import html
import re
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.ruler import RuleOptionsType
from markdown_it.rules_block import StateBlock
from markdown_it.rules_core import StateCore
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import OptionsDict
from mdit_py_plugins.tasklists import tasklists_plugin

from orchestrator.core.sanitise import sanitise
from orchestrator.model import JsonObject

# The specification asks clients to take at most 100 nested elements; a level of Markdown makes two.
_MAX_NESTING = 40
# Some texts cost markdown-it time by their square: 6 KB of "-\n-&\n>" 2.5 s. So steps are counted;
# ordinary Markdown was measured at up to 4 block steps a line and 1 inline step a character.
_BLOCK_STEPS_PER_LINE = 6
_INLINE_STEPS_PER_CHAR = 1.5
_FREE_STEPS = 200
# Each opening bracket looks for its end in the whole block, in steps too small to be counted:
# 1,000 brackets in 6,000 characters took 0.4 s. A block of 25,000 characters may have 80 links.
_MAX_BRACKET_WORK = 2_000_000
# As client-server-api/#mroommessage-msgtypes of the specification has them, without what we never
# make (font, span, details, img, …).
_TAGS = {
    *("h1", "h2", "h3", "h4", "h5", "h6", "p", "br", "hr", "blockquote"),
    *("a", "strong", "em", "s", "del", "code", "pre", "ul", "ol", "li"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
_ATTRIBUTES = {"a": {"href", "title"}, "code": {"class"}, "ol": {"start"}}
_SCHEMES = {"https", "http", "mailto"}
_LANGUAGE_CLASS = re.compile(r"language-[A-Za-z0-9_+#.-]{1,40}")
_PERSON_LINK = re.compile(
    r"\s*(?:matrix:|https?://(?:www\.)?matrix\.to(?:[/?#:]|$))", re.IGNORECASE
)


_OUTER_LINK = re.compile(r"(?:https?://|mailto:)[^\s/]", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedText:
    """The two forms of a message. `formatted_body` is None where it would add nothing."""

    body: str
    formatted_body: str | None


def render_markdown(text: str) -> RenderedText:
    """The sanitised Markdown itself, readable as it is, and HTML made of it.

    Nested too deeply or too costly for HTML, it stays plain: no text is ever lost.
    """
    body = sanitise(text).strip("\n")
    return RenderedText(body=body, formatted_body=_formatted(body))


def build_text_content(text: str, *, notice: bool = False) -> JsonObject:
    """The content of an `m.room.message` with this Markdown. Pings nobody."""
    rendered = render_markdown(text)
    content = build_plain_content(rendered.body, notice=notice)
    if rendered.formatted_body is not None:
        content["format"] = "org.matrix.custom.html"
        content["formatted_body"] = rendered.formatted_body
    return content


def build_plain_content(text: str, *, notice: bool = False) -> JsonObject:
    """The same without HTML: the Markdown is shown as it is written."""
    return {
        "msgtype": "m.notice" if notice else "m.text",
        "body": sanitise(text),
        "m.mentions": {},
    }


def _formatted(body: str) -> str | None:
    budget = {
        "block": int(_FREE_STEPS + _BLOCK_STEPS_PER_LINE * (body.count("\n") + 1)),
        "inline": int(_FREE_STEPS + _INLINE_STEPS_PER_CHAR * len(body)),
    }
    try:
        tokens = _MARKDOWN.parse(body, budget)
    except (RecursionError, _TooCostlyError):
        return None
    # From this level on markdown-it leaves text out.
    if any(token.level >= _MAX_NESTING - 1 for token in tokens):
        return None
    for token in tokens:
        token.children = _without_inner_links(token.children or [])
    raw = _MARKDOWN.renderer.render(tokens, _MARKDOWN.options, {})
    clean = nh3.clean(
        raw,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        attribute_filter=_filter_attribute,
        url_schemes=_SCHEMES,
        link_rel=None,
    ).strip()
    return None if clean in {"", f"<p>{html.escape(body.strip(), quote=False)}</p>"} else clean


def _without_inner_links(children: list[Token]) -> list[Token]:
    """The same with each link into Matrix or into the client as the text that it had.

    A client would show a pill, or take an address without a scheme (`/#/room/…`) as one of its own
    pages. A path is shown behind the text.
    """
    kept: list[Token] = []
    inside: Token | None = None
    for token in children:
        if token.type == "link_open" and _is_inner(_href(token)):
            inside = token
        elif inside is not None and token.type == "link_close":
            kept += _path_behind(_href(inside))
            inside = None
        elif inside is not None and inside.info == "auto":
            # The address itself as text would be made a link again; clients leave code alone.
            kept.append(Token("code_inline", "code", 0, content=token.content))
        else:
            kept.append(token)
    return kept


def _href(token: Token) -> str:
    return str(token.attrs.get("href", ""))


def _is_inner(href: str) -> bool:
    return _OUTER_LINK.match(href) is None or _PERSON_LINK.match(href) is not None


def _path_behind(href: str) -> list[Token]:
    if not href or _PERSON_LINK.match(href):
        return []
    return [
        Token("text", "", 0, content=" ("),
        Token("code_inline", "code", 0, content=unquote(href)),
        Token("text", "", 0, content=")"),
    ]


def _filter_attribute(tag: str, attribute: str, value: str) -> str | None:
    if (tag, attribute) == ("code", "class"):
        return value if _LANGUAGE_CLASS.fullmatch(value) else None
    return value


class _TooCostlyError(Exception):
    """The text would take markdown-it long; caught above."""


def _count_block_step(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    return _spend(state.env, "block")


def _count_inline_step(state: StateInline, silent: bool) -> bool:
    return _spend(state.env, "inline")


def _check_brackets(state: StateCore) -> None:
    for token in state.tokens:
        if token.type != "inline":
            continue
        if token.content.count("[") * len(token.content) > _MAX_BRACKET_WORK:
            raise _TooCostlyError


def _spend(budget: MutableMapping[str, Any], kind: str) -> bool:
    """A rule that never matches: every step of the parser tries it first."""
    budget[kind] -= 1
    if budget[kind] < 0:
        raise _TooCostlyError
    return False


class _Renderer(RendererHTML):
    """Markdown-it's own, but for images and task lists."""

    def image(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]
    ) -> str:
        """A link with the image's text; the client loads nothing."""
        token = tokens[idx]
        source = str(token.attrs.get("src", ""))
        label = self.renderInlineAsText(token.children, options, env) or source
        if _is_inner(source):
            return html.escape(label)
        return f'<a href="{html.escape(source)}">{html.escape(label)}</a>'

    def html_inline(
        self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: MutableMapping[str, Any]
    ) -> str:
        """The box of a task; raw HTML is off, so nothing else arrives here."""
        return "☑" if 'checked="checked"' in tokens[idx].content else "☐"


def _open_markdown() -> MarkdownIt:
    markdown = MarkdownIt(
        # A line end of the model is a line end in a chat.
        "commonmark",
        {"html": False, "breaks": True, "maxNesting": _MAX_NESTING},
        renderer_cls=_Renderer,
    )
    # Definitions of references (`[1]: https://…`) would vanish from what is shown.
    markdown.disable("reference")
    markdown.enable(["table", "strikethrough"]).use(tasklists_plugin)
    everywhere: RuleOptionsType = {"alt": ["paragraph", "reference", "blockquote", "list"]}
    markdown.block.ruler.before("table", "count_steps", _count_block_step, everywhere)
    markdown.inline.ruler.before("text", "count_steps", _count_inline_step)
    markdown.core.ruler.after("block", "check_brackets", _check_brackets)
    return markdown


_MARKDOWN = _open_markdown()
