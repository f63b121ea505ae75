"""Socket options: which, and why."""

from __future__ import annotations

import errno
import functools
import socket
import struct
import sys
from socket import SocketType

# Fixed by the system: struct tcp_info of linux/tcp.h
TCP_INFO_BYTES = 60
TCPI_STATE, TCPI_RETRANSMITS, TCPI_PROBES = 0, 2, 3
TCPI_LAST_ACK_RECV = 56

SO_MEMINFO, SO_BUF_LOCK = 55, 72  # asm-generic/socket.h
# Of nine (linux/sock_diag.h): SK_MEMINFO_SNDBUF and SK_MEMINFO_WMEM_QUEUED; what is waiting to be
# read and to be acknowledged, SK_MEMINFO_RMEM_ALLOC and SK_MEMINFO_WMEM_QUEUED.
MEMINFO = struct.Struct("12xI4xI12x")
HELD = struct.Struct("I16xI12x")
SEGMENT_BYTES = (socket.IPPROTO_TCP, socket.TCP_MAXSEG)
NOTSENT_LOWAT = "/proc/sys/net/ipv4/tcp_notsent_lowat"
NO_LIMIT = (1 << 32) - 1

TCP_CA_NAME_MAX = 16  # linux/tcp.h

TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_CLOSE = 1, 4, 5, 7  # net/tcp_states.h

# Chosen here
KEEPALIVE_IDLE_SECONDS = 60  # with the two below a silent peer is found within 130 s
KEEPALIVE_INTERVAL_SECONDS = 15
KEEPALIVE_PROBES = 4
UNANSWERED_MS = 120_000  # bytes or probes in vain for so long: the kernel alone takes 15 min
UNANSWERED_TRIES = 2

ROOMY_SEGMENT_BYTES = 1024  # Linux 6.x: 1.8 bytes of its memory for each of ours; of 536, 2.6

CAPPED_BYTES = 64 * 1024  # each way; the kernel doubles it, for its own part

LINGER_ABORT = struct.pack("ii", 1, 0)  # close() sends RST and drops what is unsent

RECEIVE_BUFFER_BYTES = 1 << 20  # UDP that waits while the loop is busy; net.core.rmem_max caps it

LOOPBACK = ("127.", "::ffff:127.")  # and ::1
BBR = b"bbr"  # and its later versions: they pace
RENO = b"reno"  # in every kernel, and allowed to everybody

KEEPALIVE_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
)


def prepare_listening(sock: SocketType) -> None:
    """Set what accepted connections inherit. Dialed ones get each of it when they need it."""
    no_delay(sock)
    keep_alive(sock)
    keep_urgent_in_line(sock)


def no_delay(sock: SocketType) -> None:
    """Send at once whatever is to be sent: a relay adds no delay of its own."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def keep_urgent_in_line(sock: SocketType) -> None:
    """Have recv() give an urgent byte (MSG_OOB) where it stands in the stream (RFC 6093 §5).

    Without this it drops the byte. Set later, it may be too late: a second urgent byte makes the
    kernel drop the first.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)


def keep_alive(sock: SocketType) -> None:
    """Have the kernel ask, while nothing moves, whether the other side is there still."""
    for level, option, value in KEEPALIVE_OPTIONS:
        sock.setsockopt(level, option, value)


def unpace_loopback(sock: SocketType, host: str) -> None:
    """Give a connection to *host* Reno where the system has BBR, and *host* is loopback.

    Nothing is congested there, and the timers by which BBR holds a sender to a rate are more than
    half of what a relayed byte costs.
    """
    try:
        if _system_paces() and is_loopback(host):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, RENO)
    except OSError:  # then it is slower, and the next one asks again
        pass


def is_loopback(host: str) -> bool:
    """True for an address of this machine that the kernel writes as one of loopback."""
    return host.startswith(LOOPBACK) or host == "::1"


@functools.cache
def _system_paces() -> bool:
    """True where the congestion control of those who ask for none is BBR. Raises OSError."""
    with socket.socket() as sock:
        name = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, TCP_CA_NAME_MAX)
    return name.startswith(BBR)


def prepare_datagrams(sock: SocketType) -> None:
    """Set what every UDP socket has."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)


def send_room_bytes(sock: SocketType) -> int:
    """How many bytes the kernel has room for, and takes at once; 0 where that cannot be told.

    The kernel counts its own part with them: for segments of ROOMY_SEGMENT_BYTES less than as much
    again, even where no device puts several together. While the system is short of memory for
    sockets it may take less.
    """
    try:
        if _limits_unsent() or sock.getsockopt(*SEGMENT_BYTES) < ROOMY_SEGMENT_BYTES:
            return 0
        info = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, MEMINFO.size)
        limit_bytes, queued_bytes = MEMINFO.unpack(info)
    except (OSError, struct.error):
        return 0
    return max(int(limit_bytes) - int(queued_bytes), 0) // 2


def exercise() -> None:
    """Read now what is asked once, while /proc can be read. Raises OSError."""
    _limits_unsent()


@functools.cache
def _limits_unsent() -> bool:
    """True where a send ends early although there is room: what is not sent yet is limited too.

    Asked once a process. Raises OSError.
    """
    try:
        with open(NOTSENT_LOWAT, encoding="ascii") as file:
            return int(file.read()) < NO_LIMIT
    except (FileNotFoundError, PermissionError):  # not ours to see: it is as it is by default
        return False


def is_lost(sock: SocketType) -> bool:
    """True where the other side is gone, and nobody has read so.

    It has acknowledged nothing for long, though it was asked to, or has reset the connection.
    TCP_USER_TIMEOUT is not this: it also ends connections whose other side is well, answers every
    probe, and only reads nothing for a while (a download that was paused).
    """
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
    if info[TCPI_STATE] == TCP_CLOSE:
        # EPIPE is a reset behind FIN, as a probe gets it from one who has said all that he had to
        # say: it can be read still. 0: both directions have ended, or somebody has met the error.
        # To ask takes the error away.
        return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) not in (0, errno.EPIPE)
    if max(info[TCPI_RETRANSMITS], info[TCPI_PROBES]) < UNANSWERED_TRIES:
        return False
    last_ack_ms = int.from_bytes(info[TCPI_LAST_ACK_RECV : TCPI_LAST_ACK_RECV + 4], sys.byteorder)
    return last_ack_ms >= UNANSWERED_MS


def has_left(sock: SocketType) -> bool:
    """True once the other side has sent FIN, even behind bytes that nobody has read, or is gone."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)
    return info[TCPI_STATE] not in (TCP_ESTABLISHED, TCP_FIN_WAIT1, TCP_FIN_WAIT2)


def reset_on_close(sock: SocketType) -> None:
    """Make the next close() a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ABORT)


def memory_bytes(sock: SocketType) -> int:
    """How much of the kernel's memory waits in *sock*, to be read and to be acknowledged.

    0 where the kernel does not say.
    """
    try:
        info = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, HELD.size)
        unread_bytes, unsent_bytes = HELD.unpack(info)
    except (OSError, struct.error):
        return 0
    return int(unread_bytes) + int(unsent_bytes)


def cap_buffers(sock: SocketType) -> None:
    """Have *sock* take no more memory than it has, and less once that is gone.

    Not where the kernel could not be told to forget it again (Linux before 5.14): buffers that do
    not grow make every distant connection slow.
    """
    try:
        sock.getsockopt(socket.SOL_SOCKET, SO_BUF_LOCK)
        for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            if sock.getsockopt(socket.SOL_SOCKET, buffer) > 2 * CAPPED_BYTES:
                sock.setsockopt(socket.SOL_SOCKET, buffer, CAPPED_BYTES)
    except OSError:
        pass


def uncap_buffers(sock: SocketType) -> None:
    """Have the buffers of *sock* grow again as they would without cap_buffers()."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_BUF_LOCK, 0)
    except OSError:
        pass
