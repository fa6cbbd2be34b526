"""The rooms' numbers on both sides of a user namespace, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.core.id_plan import PROBE_UID, IdPlan, Seen, judge_ids, parse_id_map, plain_ids
from orchestrator.core.naming import ROOMS_PER_INSTALLATION, room_uid
from orchestrator.model import InstallationId

INSTALLATION = InstallationId("0123456789abcdef")
WHOLE = "0 0 4294967295"
NOBODY = 65534


def seen(
    uid_map: str,
    *,
    gid_map: str | None = None,
    file_uid: int,
    file_gid: int | None = None,
    peer_uid: int | None = None,
) -> Seen:
    return Seen(
        uid_map=uid_map,
        gid_map=gid_map or uid_map,
        file_uid=file_uid,
        file_gid=file_uid if file_gid is None else file_gid,
        peer_uid=file_uid if peer_uid is None else peer_uid,
    )


def judge(what: Seen, installation: InstallationId = INSTALLATION) -> IdPlan:
    return judge_ids(installation, what, own_process=True)


def test_without_user_namespaces_a_room_has_the_same_number_everywhere() -> None:
    plan = plain_ids(INSTALLATION)
    ids = plan.ids(7)
    number = room_uid(INSTALLATION, 7)
    assert (ids.uid, ids.host_uid, ids.host_gid, ids.peer_uid) == (number,) * 4
    assert judge(seen(WHOLE, file_uid=PROBE_UID)) == plan


def test_a_remapping_engines_rooms_are_within_its_map_and_are_what_the_host_sees() -> None:
    ids = judge(seen("0 231072 65536", file_uid=231072 + PROBE_UID)).ids(0)
    assert 0 < ids.uid < 65536
    assert ids.host_uid == ids.host_gid == ids.peer_uid == 231072 + ids.uid


def test_uids_and_gids_may_be_mapped_to_different_places() -> None:
    what = seen(
        "0 100000 65536",
        gid_map="0 300000 65536",
        file_uid=100000 + PROBE_UID,
        file_gid=300000 + PROBE_UID,
    )
    ids = judge(what).ids(3)
    assert (ids.host_uid - 100000, ids.host_gid - 300000) == (ids.uid, ids.uid)


def test_a_rootless_engines_own_user_is_not_any_rooms() -> None:
    # As newuidmap makes it: root inside is the engine's user, the rest are its subordinate ids.
    plan = judge(seen("0 1000 1\n1 100000 65536", file_uid=100000 + PROBE_UID - 1))
    assert plan.ids(0).host_uid == 100000 + plan.uid - 1
    assert 1000 not in {plan.ids(index).host_uid for index in range(ROOMS_PER_INSTALLATION)}


def test_inside_the_engines_own_namespace_nothing_is_translated() -> None:
    plan = judge(seen("0 1000 1\n1 100000 65536", file_uid=PROBE_UID))
    assert plan.ids(5).host_uid == plan.ids(5).uid


@given(
    installation=st.text("0123456789abcdef", min_size=16, max_size=16),
    outside=st.integers(1, 1 << 31),
    count=st.integers(0, 1 << 31),
    first=st.integers(0, ROOMS_PER_INSTALLATION - 1),
    second=st.integers(0, ROOMS_PER_INSTALLATION - 1),
)
def test_two_rooms_never_share_a_number_and_none_is_roots_or_outside_the_map(
    installation: str, outside: int, count: int, first: int, second: int
) -> None:
    assume(first != second)
    what = seen(f"0 {outside} {count}", file_uid=outside + PROBE_UID)
    if count < 2 * ROOMS_PER_INSTALLATION:
        with pytest.raises(ValueError, match=r"maps|id map does not say"):
            judge(what, InstallationId(installation))
        return
    plan = judge(what, InstallationId(installation))
    one, other = plan.ids(first), plan.ids(second)
    for a, b in ((one.uid, other.uid), (one.host_uid, other.host_uid)):
        assert a != b
        assert a > 0
    for ids in (one, other):
        assert ids.uid < count
        assert outside < ids.host_uid < outside + count
        assert ids.peer_uid == ids.host_uid
    assert NOBODY not in {one.uid, other.uid}


def test_more_rooms_than_there_are_numbers_are_refused() -> None:
    for index in (-1, ROOMS_PER_INSTALLATION):
        with pytest.raises(ValueError, match="at most"):
            plain_ids(INSTALLATION).ids(index)


def test_two_installations_on_a_wide_map_have_places_of_their_own() -> None:
    wide = seen("0 1000000 268435456", file_uid=1000000 + PROBE_UID)
    places = {judge(wide, InstallationId(f"{n:016x}")).uid for n in range(50)}
    assert len(places) > 45


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (seen("0 100000 20000", file_uid=100000 + PROBE_UID), "maps 20000 ids"),
        (seen("0 100000 65536", file_uid=0), "id map does not say"),
        (seen("0 100000 65536", file_uid=100000), "id map does not say"),
        (seen("1 100000 65535", file_uid=100000 + PROBE_UID - 1), "maps 0 ids"),
        # Either of the two places of a narrow map is broken in its middle.
        (
            seen("0 1 20000\n20000 500000 20000\n40000 900000 25536", file_uid=PROBE_UID + 1),
            "in one piece",
        ),
        (
            seen("0 100000 65536", file_uid=100000 + PROBE_UID, file_gid=4),
            "as gid 16384 belongs to gid 4",
        ),
        (seen("", file_uid=PROBE_UID), "no id map"),
        (seen("0 x 65536", file_uid=PROBE_UID), "makes no sense"),
        (seen("0 -5 65536", file_uid=PROBE_UID), "makes no sense"),
        (seen("0 0 4294967295 7", file_uid=PROBE_UID), "makes no sense"),
        # A runner's process that is root here, though it says that it is not.
        (seen(WHOLE, file_uid=0), "id map does not say"),
        (seen(WHOLE, file_uid=PROBE_UID, peer_uid=0), "uid 0 connected"),
    ],
)
def test_what_does_not_add_up_is_refused_with_what_was_seen(what: Seen, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        judge(what)


def test_a_sandboxs_own_process_at_the_door_counts_only_for_a_runtime_that_has_one() -> None:
    what = seen(WHOLE, file_uid=PROBE_UID, peer_uid=0)
    plan = judge_ids(INSTALLATION, what, own_process=False)
    assert (plan.ids(0).peer_uid, plan.ids(9).peer_uid) == (0, 0)
    assert plan.ids(9).host_uid == room_uid(INSTALLATION, 9)


def test_a_map_is_read_line_by_line() -> None:
    ranges = parse_id_map("         0       1000          1\n         1     100000      65536\n")
    assert [(r.inside, r.outside, r.count) for r in ranges] == [(0, 1000, 1), (1, 100000, 65536)]
