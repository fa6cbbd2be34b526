"""What a file system holds by its superblock: whatever stands there, a usage that can be, or none.

The figures of real ones are compared with the kernel's in tests/integration/test_room_disks.py.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.disk import DiskUsage
from orchestrator.core.disk_superblock import SUPERBLOCK_BYTES, parse_resting_usage


def superblock(
    *, magic: int = 0xEF53, state: int = 1, incompat: int = 0x2C2, high: int = 0, free: int = 60_000
) -> bytes:
    """One of 100,000 blocks of 4 KiB and 5,000 inodes, and `high` times 2**32 blocks more."""
    block = bytearray(SUPERBLOCK_BYTES)
    struct.pack_into("<5I", block, 0x0, 5_000, 100_000, 0, free, 4_989)
    struct.pack_into("<I", block, 0x18, 2)
    struct.pack_into("<2H", block, 0x38, magic, state)
    struct.pack_into("<I", block, 0x60, incompat)
    struct.pack_into("<3I", block, 0x150, high, 0, high)
    struct.pack_into("<I", block, 0x248, 4_000)
    return bytes(block)


def test_its_own_share_is_left_out_and_what_the_kernel_keeps_back_is_used() -> None:
    assert parse_resting_usage(superblock()) == DiskUsage(
        used_bytes=(96_000 - (60_000 - 2_000)) * 4096,
        limit_bytes=96_000 * 4096,
        files=11,
        limit_files=5_000,
        is_enforced=True,
    )


def test_a_large_one_has_counts_of_64_bits() -> None:
    usage = parse_resting_usage(superblock(high=2))
    assert usage is not None
    assert usage.limit_bytes == ((2 << 32) + 96_000) * 4096
    narrow = parse_resting_usage(superblock(high=2, incompat=0x242))
    assert narrow is not None
    assert narrow.limit_bytes == 96_000 * 4096


def test_one_that_met_an_error_is_sick() -> None:
    usage = parse_resting_usage(superblock(state=3))
    assert usage is not None
    assert usage.is_sick


@pytest.mark.parametrize(
    "block",
    [
        b"",
        superblock()[:-1],
        superblock(magic=0),
        superblock(state=0),
        superblock(incompat=0x2C6),
        superblock(free=100_001),
    ],
)
def test_what_is_none_or_was_not_unmounted_says_nothing(block: bytes) -> None:
    assert parse_resting_usage(block) is None


@given(st.binary(min_size=SUPERBLOCK_BYTES, max_size=SUPERBLOCK_BYTES))
def test_whatever_stands_there_is_a_possible_usage_or_none(noise: bytes) -> None:
    block = bytearray(noise)
    struct.pack_into("<2H", block, 0x38, 0xEF53, 1)
    struct.pack_into("<I", block, 0x18, block[0x18] % 8)
    usage = parse_resting_usage(bytes(block))
    if usage is not None:
        assert 0 <= usage.used_bytes <= usage.limit_bytes
        assert 0 <= usage.files <= usage.limit_files
