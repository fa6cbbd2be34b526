"""Paths that a runner must not see, write or find; what container_probe.py is given.

HIDDEN and UNWRITABLE say what orchestrator/core/hidden_paths.py says, written out again: what is
tested must not come from there. A test compares the two.
"""

from __future__ import annotations

HIDDEN = """
    /proc/acpi /proc/asound /proc/buddyinfo /proc/bus /proc/cmdline /proc/config.gz /proc/consoles
    /proc/devices /proc/diskstats /proc/dma /proc/driver /proc/execdomains /proc/fs/ext4
    /proc/fs/jbd2 /proc/interrupts /proc/iomem /proc/ioports /proc/kallsyms /proc/kcore
    /proc/key-users /proc/keys /proc/kmsg /proc/latency_stats /proc/locks /proc/misc /proc/modules
    /proc/mtrr /proc/pagetypeinfo /proc/partitions /proc/pressure/cpu /proc/pressure/memory
    /proc/sched_debug /proc/schedstat /proc/scsi /proc/slabinfo /proc/softirqs /proc/swaps
    /proc/sys/fs/dentry-state /proc/sys/fs/file-nr /proc/sys/fs/inode-nr /proc/sys/fs/inode-state
    /proc/timer_list /proc/timer_stats /proc/vmallocinfo /proc/vmstat /proc/zoneinfo /sys/block
    /sys/bus /sys/class/block /sys/class/dmi /sys/class/hwmon /sys/class/powercap /sys/class/thermal
    /sys/dev/block /sys/devices/system/cpu /sys/devices/system/cpu/vulnerabilities
    /sys/devices/system/cpu/cpu0/cpufreq /sys/devices/system/cpu/cpu0/thermal_throttle
    /sys/devices/system/node /sys/devices/virtual/dmi /sys/devices/virtual/powercap
    /sys/devices/virtual/thermal /sys/firmware /sys/fs/bcachefs /sys/fs/bpf /sys/fs/btrfs
    /sys/fs/erofs /sys/fs/ext4 /sys/fs/f2fs /sys/fs/fuse /sys/fs/pstore /sys/fs/xfs /sys/hypervisor
    /sys/kernel /sys/kernel/debug /sys/kernel/security /sys/kernel/tracing /sys/module /sys/power
"""
UNWRITABLE = """
    /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sys/kernel/modprobe
    /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_forward /proc/sys/vm/overcommit_memory
    /proc/sys/fs/binfmt_misc/register /proc/sysrq-trigger /proc/irq/default_smp_affinity
    /proc/fs/x /proc/bus/x /sys/fs/cgroup/x /sys/fs/cgroup/cgroup.procs
    /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/pids/pids.max
    /sys/fs/cgroup/memory/release_agent /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max
    /sys/fs/cgroup/devices/devices.allow /sys/kernel/uevent_helper
    /etc/passwd /etc/hosts /etc/resolv.conf /etc/hostname /etc/ld.so.preload
    /etc/claude-code/managed-settings.json /opt/aiagentchat/shim/main.py /usr/local/bin/claude
    /run/egress/x /dev/x /var/tmp/x /run/x /x
"""
ABSENT = """
    /var/run/docker.sock /run/docker.sock /run/containerd/containerd.sock /run/podman/podman.sock
    /dev/mem /dev/kmsg /dev/kvm /dev/fuse /dev/net/tun /dev/vsock /dev/vhost-vsock /dev/loop0
    /dev/loop-control /dev/mapper/control /dev/sda /dev/vda /dev/nvme0n1 /dev/uinput /dev/hpet
    /dev/cpu/0/msr /dev/dri /dev/snd /dev/userfaultfd /dev/uhid /dev/bus/usb /.dockersock
    /proc/1/root/proc /host /hostfs /run/secrets /sys/fs/bpf/x /sys/fs/selinux/enforce
"""

# Root's anyway; a mount of their own keeps a room's root, should it have one, from writing.
READ_ONLY = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger"

PATHS = {
    "hidden": HIDDEN.split(),
    "unwritable": UNWRITABLE.split(),
    "absent": ABSENT.split(),
    "read_only": READ_ONLY.split(),
}
