"""What of /proc and /sys a runner does not see, or can't write.

Rules: all that current engines hide by default, and what tells of the host's hardware, of its
kernel's inside, or of what other rooms do. A path that a host does not have costs nothing. What is
left open on purpose: /proc/{cpuinfo,meminfo,stat,loadavg,uptime,version,filesystems,mounts}, which
ordinary programs read, and which tell of the host's load (see docs/security/engines.md).
"""

from __future__ import annotations

from typing import Final

# /sys/devices holds every device: disks with their serial numbers, processors with their clocks and
# throttling counters (by which one room can watch another), sensors. What stands elsewhere in /sys
# is mostly links into it. /proc/fs and /sys/fs say of each mounted file system how much is written
# to it, and each room's disk is one. (/sys/fs/cgroup stays: it is the room's own.) The numbers of
# open files and of cached names are the host's as a whole, and exact.
MASKED_PATHS: Final = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/buddyinfo",
    "/proc/bus",
    "/proc/cmdline",
    "/proc/config.gz",
    "/proc/consoles",
    "/proc/devices",
    "/proc/diskstats",
    "/proc/dma",
    "/proc/driver",
    "/proc/execdomains",
    "/proc/fb",
    "/proc/fs",
    "/proc/interrupts",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/locks",
    "/proc/mdstat",
    "/proc/misc",
    "/proc/modules",
    "/proc/mtrr",
    "/proc/pagetypeinfo",
    "/proc/partitions",
    "/proc/pressure",
    "/proc/sched_debug",
    "/proc/schedstat",
    "/proc/scsi",
    "/proc/slabinfo",
    "/proc/softirqs",
    "/proc/swaps",
    "/proc/sys/fs/dentry-state",
    "/proc/sys/fs/file-nr",
    "/proc/sys/fs/inode-nr",
    "/proc/sys/fs/inode-state",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/vmallocinfo",
    "/proc/vmstat",
    "/proc/zoneinfo",
    "/sys/block",
    "/sys/bus",
    "/sys/class/block",
    "/sys/class/dmi",
    "/sys/class/hwmon",
    "/sys/class/powercap",
    "/sys/class/thermal",
    "/sys/dev",
    "/sys/devices",
    "/sys/firmware",
    "/sys/fs/bcachefs",
    "/sys/fs/bpf",
    "/sys/fs/btrfs",
    "/sys/fs/erofs",
    "/sys/fs/ext4",
    "/sys/fs/f2fs",
    "/sys/fs/fuse",
    "/sys/fs/pstore",
    "/sys/fs/xfs",
    "/sys/hypervisor",
    "/sys/kernel",
    "/sys/module",
    "/sys/power",
)
READONLY_PATHS: Final = (
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
)
