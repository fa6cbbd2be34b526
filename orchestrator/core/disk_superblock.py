"""What a room's file system holds while it is not mounted, by its superblock. Pure.

The kernel brings the counts up to date when it unmounts; of a file system that is in use, or that
lost power, they say too little. The figures are those of `statvfs` of the same one mounted: without
what the file system itself takes, and with the few blocks that the kernel keeps back as used.

Offsets are those of `struct ext4_super_block` (fs/ext4/ext4.h); in turn: s_inodes_count to
s_free_inodes_count, s_log_block_size, s_magic and s_state, s_feature_incompat, the upper halves of
the three counts of blocks, s_overhead_clusters.
"""

from __future__ import annotations

import struct
from typing import Final

from orchestrator.core.disk import DiskUsage

SUPERBLOCK_AT: Final = 1024
SUPERBLOCK_BYTES: Final = 1024
_MAGIC: Final = 0xEF53
# s_state: unmounted in order; met an error. s_feature_incompat: has a journal to be replayed, has
# counts of 64 bits.
_CLEAN: Final = 0x1
_ERRORS: Final = 0x2
_RECOVER: Final = 0x4
_WIDE: Final = 0x80
# Blocks of 1 KiB << 6, 64 KiB, are the largest that there are (EXT4_MAX_BLOCK_SIZE).
_MOST_LOG_SIZE: Final = 6
# Kept back for what is written late (fs/ext4, ext4_calculate_resv_clusters).
_KEPT_SHARE: Final = 50
_KEPT_MOST: Final = 4096


def parse_resting_usage(block: bytes) -> DiskUsage | None:
    """What it holds; None: this is no superblock of ext4, or of one that was not unmounted."""
    if len(block) < SUPERBLOCK_BYTES:
        return None
    inodes, blocks, reserved, free, free_inodes = struct.unpack_from("<5I", block, 0x0)
    (log_size,) = struct.unpack_from("<I", block, 0x18)
    magic, state = struct.unpack_from("<2H", block, 0x38)
    (incompat,) = struct.unpack_from("<I", block, 0x60)
    is_in_order = magic == _MAGIC and state & _CLEAN and not incompat & _RECOVER
    if not is_in_order or log_size > _MOST_LOG_SIZE:
        return None
    if incompat & _WIDE:
        high = struct.unpack_from("<3I", block, 0x150)
        blocks, reserved, free = (
            low | more << 32 for low, more in zip((blocks, reserved, free), high, strict=True)
        )
    (overhead,) = struct.unpack_from("<I", block, 0x248)
    kept = min(blocks // _KEPT_SHARE, _KEPT_MOST)
    size, most = 1024 << log_size, blocks - overhead
    available = max(0, free - reserved - kept)
    if not most > 0 or available > most or free_inodes > inodes:
        return None
    return DiskUsage(
        used_bytes=(most - available) * size,
        limit_bytes=most * size,
        files=inodes - free_inodes,
        limit_files=inodes,
        is_enforced=True,
        is_sick=bool(state & _ERRORS),
    )
