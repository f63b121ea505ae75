"""The numbers of the system calls that a worker never makes, by architecture."""

from __future__ import annotations

from typing import NamedTuple


class Numbers(NamedTuple):
    """One call's number on each architecture, from its unistd.h; None where it has none."""

    x86_64: int | None
    aarch64: int | None


def _same(number: int) -> Numbers:
    """Give the number of a call since Linux 5.1: from 424 on all architectures agree."""
    return Numbers(number, number)


# The last call that was looked at for this table (Linux 6.17). What is newer is answered with
# ENOSYS, as an older kernel answers it, so programs have another way.
NEWEST = 469

SECCOMP = Numbers(317, 277)

# Refused, whatever the arguments.
REFUSED = {
    # Other programs and processes. A worker starts threads alone.
    "execve": Numbers(59, 221), "execveat": Numbers(322, 281),
    "fork": Numbers(57, None), "vfork": Numbers(58, None),
    "ptrace": Numbers(101, 117), "kcmp": Numbers(312, 272), "tkill": Numbers(200, 130),
    "process_vm_readv": Numbers(310, 270), "process_vm_writev": Numbers(311, 271),
    "pidfd_send_signal": _same(424), "pidfd_open": _same(434), "pidfd_getfd": _same(438),
    "process_madvise": _same(440), "process_mrelease": _same(448),
    # Namespaces and mounts.
    "unshare": Numbers(272, 97), "setns": Numbers(308, 268),
    "mount": Numbers(165, 40), "umount2": Numbers(166, 39), "pivot_root": Numbers(155, 41),
    "chroot": Numbers(161, 51), "open_tree": _same(428), "move_mount": _same(429),
    "fsopen": _same(430), "fsconfig": _same(431), "fsmount": _same(432), "fspick": _same(433),
    "mount_setattr": _same(442), "statmount": _same(457), "listmount": _same(458),
    "open_tree_attr": _same(467),
    "name_to_handle_at": Numbers(303, 264), "open_by_handle_at": Numbers(304, 265),
    # Large parts of the kernel, in which most of its holes were found.
    "bpf": Numbers(321, 280), "perf_event_open": Numbers(298, 241),
    "userfaultfd": Numbers(323, 282), "add_key": Numbers(248, 217),
    "request_key": Numbers(249, 218), "keyctl": Numbers(250, 219),
    "io_uring_setup": _same(425), "io_uring_enter": _same(426), "io_uring_register": _same(427),
    "io_setup": Numbers(206, 0),
    "fanotify_init": Numbers(300, 262), "fanotify_mark": Numbers(301, 263),
    "vmsplice": Numbers(278, 75), "memfd_secret": _same(447),
    "mbind": Numbers(237, 235), "get_mempolicy": Numbers(239, 236),
    "set_mempolicy": Numbers(238, 237), "migrate_pages": Numbers(256, 238),
    "move_pages": Numbers(279, 239), "set_mempolicy_home_node": _same(450),
    "shmget": Numbers(29, 194), "shmat": Numbers(30, 196), "shmctl": Numbers(31, 195),
    "shmdt": Numbers(67, 197), "semget": Numbers(64, 190), "semop": Numbers(65, 193),
    "semctl": Numbers(66, 191), "semtimedop": Numbers(220, 192), "msgget": Numbers(68, 186),
    "msgsnd": Numbers(69, 189), "msgrcv": Numbers(70, 188), "msgctl": Numbers(71, 187),
    "mq_open": Numbers(240, 180), "mq_unlink": Numbers(241, 181),
    "modify_ldt": Numbers(154, None), "uselib": Numbers(134, None),
    "personality": Numbers(135, 92), "lookup_dcookie": Numbers(212, 18),
    # The machine itself.
    "kexec_load": Numbers(246, 104), "kexec_file_load": Numbers(320, 294),
    "init_module": Numbers(175, 105), "finit_module": Numbers(313, 273),
    "delete_module": Numbers(176, 106), "reboot": Numbers(169, 142),
    "swapon": Numbers(167, 224), "swapoff": Numbers(168, 225), "acct": Numbers(163, 89),
    "settimeofday": Numbers(164, 170), "clock_settime": Numbers(227, 112),
    "adjtimex": Numbers(159, 171), "clock_adjtime": Numbers(305, 266),
    "sethostname": Numbers(170, 161), "setdomainname": Numbers(171, 162),
    "quotactl": Numbers(179, 60), "quotactl_fd": _same(443), "syslog": Numbers(103, 116),
    "vhangup": Numbers(153, 58), "iopl": Numbers(172, None), "ioperm": Numbers(173, None),
    # Who we are.
    "setuid": Numbers(105, 146), "setgid": Numbers(106, 144), "setreuid": Numbers(113, 145),
    "setregid": Numbers(114, 143), "setgroups": Numbers(116, 159),
    "setresuid": Numbers(117, 147), "setresgid": Numbers(119, 149),
    "setfsuid": Numbers(122, 151), "setfsgid": Numbers(123, 152), "capset": Numbers(126, 91),
    # Changes to files. Landlock knows nothing of modes, owners, times and attributes, and not
    # every kernel has it. To truncate shared memory would end all that have it mapped by SIGBUS.
    "truncate": Numbers(76, 45), "ftruncate": Numbers(77, 46),
    "chmod": Numbers(90, None), "fchmod": Numbers(91, 52), "fchmodat": Numbers(268, 53),
    "fchmodat2": _same(452), "chown": Numbers(92, None), "fchown": Numbers(93, 55),
    "lchown": Numbers(94, None), "fchownat": Numbers(260, 54),
    "setxattr": Numbers(188, 5), "lsetxattr": Numbers(189, 6), "fsetxattr": Numbers(190, 7),
    "setxattrat": _same(463), "removexattr": Numbers(197, 14), "lremovexattr": Numbers(198, 15),
    "fremovexattr": Numbers(199, 16), "removexattrat": _same(466), "file_setattr": _same(469),
    "utime": Numbers(132, None), "utimes": Numbers(235, None), "futimesat": Numbers(261, None),
    "utimensat": Numbers(280, 88), "creat": Numbers(85, None), "mknod": Numbers(133, None),
    "mknodat": Numbers(259, 33), "mkdir": Numbers(83, None), "mkdirat": Numbers(258, 34),
    "rmdir": Numbers(84, None), "unlink": Numbers(87, None), "unlinkat": Numbers(263, 35),
    "rename": Numbers(82, None), "renameat": Numbers(264, 38), "renameat2": Numbers(316, 276),
    "link": Numbers(86, None), "linkat": Numbers(265, 37), "symlink": Numbers(88, None),
    "symlinkat": Numbers(266, 36),
}  # fmt: skip

# A filter cannot look into the memory where these have their flags. The C library, told that they
# are missing, takes clone and openat instead.
MISSING = {"clone3": _same(435), "openat2": _same(437)}

# Judged by their arguments; see process/seccomp.py.
SOCKET = Numbers(41, 198)
CLONE = Numbers(56, 220)
IOCTL = Numbers(16, 29)
OPEN = Numbers(2, None)
OPENAT = Numbers(257, 56)
SOCKETPAIR = Numbers(53, 199)
PRLIMIT = Numbers(302, 261)
TO_A_PROCESS = {
    "kill": Numbers(62, 129), "tgkill": Numbers(234, 131),
    "rt_sigqueueinfo": Numbers(129, 138), "rt_tgsigqueueinfo": Numbers(297, 240),
}  # fmt: skip
