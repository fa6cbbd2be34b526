"""When one sender's messages make a batch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.batching import MAX_WINDOW_ITEMS, InboundWindow

QUIET_S, WINDOW_S = 0.25, 2.0


def window(now: float = 10.0, *, is_typing: bool = False) -> InboundWindow[str]:
    return InboundWindow("a", now=now, is_typing=is_typing, quiet_s=QUIET_S, window_s=WINDOW_S)


def test_a_single_message_is_taken_after_the_quiet_time() -> None:
    w = window()
    assert w.next_deadline() == 10.25
    assert w.take_due(10.2) is None
    assert w.take_due(10.25) == ("a",)


def test_messages_close_together_are_one_batch_in_order() -> None:
    w = window()
    w.add("b", now=10.2)
    w.add("c", now=10.4)
    assert w.take_due(10.6) is None
    assert w.take_due(10.65) == ("a", "b", "c")


def test_a_steady_stream_is_cut_at_the_window() -> None:
    w = window()
    for i in range(19):
        w.add(str(i), now=10.1 + i / 10)
    assert w.next_deadline() == 12.0
    assert w.take_due(11.99) is None
    assert len(w.take_due(12.0) or ()) == 20


def test_typing_keeps_the_window_open_but_not_past_its_end() -> None:
    w = window(is_typing=True)
    assert w.take_due(11.9) is None
    assert w.take_due(12.0) == ("a",)


def test_after_typing_ends_the_message_still_gets_its_quiet_time_to_arrive() -> None:
    w = window(is_typing=True)
    w.typing(is_typing=False, now=11.0)
    assert w.next_deadline() == 11.25
    w.add("b", now=11.1)
    assert w.take_due(11.35) == ("a", "b")


def test_not_typing_told_again_delays_nothing() -> None:
    w = window()
    w.typing(is_typing=False, now=10.2)
    assert w.next_deadline() == 10.25


def test_a_full_window_is_due_at_once_and_takes_no_more() -> None:
    w = window(is_typing=True)
    for i in range(MAX_WINDOW_ITEMS - 1):
        assert not w.is_full
        w.add(str(i), now=10.1)
    assert w.is_full
    assert w.next_deadline() == 10.1
    with pytest.raises(ValueError, match="closed"):
        w.add("one too many", now=10.1)
    assert len(w.take_due(10.1) or ()) == MAX_WINDOW_ITEMS


def test_what_was_taken_is_not_taken_again() -> None:
    w = window()
    assert w.take() == ("a",)
    assert w.take() == ()
    assert w.take_due(99.0) is None
    assert w.next_deadline() is None
    with pytest.raises(ValueError, match="closed"):
        w.add("b", now=10.1)


def test_the_repr_shows_the_state() -> None:
    assert repr(window(is_typing=True)) == "InboundWindow(1 items, typing, due at 12.0)"


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 1), st.sampled_from(["add", "typing", "silent"])), max_size=80
    )
)
def test_every_item_is_taken_once_and_none_waits_longer_than_the_window(
    steps: list[tuple[float, str]],
) -> None:
    """Whoever takes at the deadline, whatever the sender does, gets all items in order."""
    now, count, taken = 0.0, 0, list[int]()
    opened_at = 0.0
    w: InboundWindow[int] | None = None
    for gap, kind in steps:
        until = now + gap
        while w is not None and (due := w.next_deadline()) is not None and due <= until:
            taken += w.take_due(due) or ()
            assert due <= opened_at + WINDOW_S
            w = None
        now = until
        if kind != "add":
            if w is not None:
                w.typing(is_typing=kind == "typing", now=now)
            continue
        if w is None:
            w = InboundWindow(
                count, now=now, is_typing=False, quiet_s=QUIET_S, window_s=WINDOW_S, max_items=5
            )
            opened_at = now
        elif not w.is_full:
            w.add(count, now=now)
        else:
            continue
        count += 1
    taken += w.take() if w is not None else ()
    assert taken == list(range(count))
