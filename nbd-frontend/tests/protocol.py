#!/usr/bin/python3
"""Checks an NBD server on the wire: option haggling over a raw socket, then libnbd.

usage: protocol.py HOST PORT [--fabric]
The server has exports `vol` (read-write, 64 MiB, also the default) and `ro` (read-only); a fabric has
`vol` alone, empty, and no default.
"""

import socket
import struct
import sys

import nbd

HOST, PORT = sys.argv[1], int(sys.argv[2])
IS_FABRIC = "--fabric" in sys.argv[3:]
EXPORTS, DEFAULT = (["vol"], "vol") if IS_FABRIC else (["ro", "vol"], "")
OPTION, REPLY = 0x49484156454F5054, 0x3E889045565A9
(EXPORT_NAME, ABORT, LIST, _, STARTTLS, INFO, GO, STRUCTURED, LIST_META, SET_META,
 EXTENDED) = range(1, 12)
ACK, SERVER, REP_INFO, META = 1, 2, 3, 4
ERROR = 1 << 31
UNSUP, POLICY, INVALID, UNKNOWN, EXT_REQD = (ERROR + n for n in (1, 2, 3, 6, 10))


class Peer:
    """A raw connection."""

    def __init__(self, flags=3):
        self.socket = socket.create_connection((HOST, PORT), timeout=10)
        assert self.read(18) == b"NBDMAGICIHAVEOPT\0\3"
        self.socket.sendall(struct.pack(">I", flags))

    def read(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def send_option(self, option, data=b""):
        self.socket.sendall(struct.pack(">QII", OPTION, option, len(data)) + data)

    def option(self, option, data=b""):
        """Sends an option; all replies, up to the final one."""
        self.send_option(option, data)
        replies = []
        while True:
            magic, same, kind, length = struct.unpack(">QIII", self.read(20))
            assert magic == REPLY and same == option, (hex(magic), same)
            replies.append((kind, self.read(length)))
            if kind == ACK or kind & ERROR:
                return replies

    def verdict(self, option, data=b""):
        return self.option(option, data)[-1][0]

    def closed(self):
        """Whether the server closed the connection, without another byte."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


def go(name, *requests):
    name = name.encode()
    return (struct.pack(">I", len(name)) + name
            + struct.pack(">H%dH" % len(requests), len(requests), *requests))


def meta(name, *queries):
    name = name.encode()
    data = struct.pack(">I", len(name)) + name + struct.pack(">I", len(queries))
    for query in queries:
        data += struct.pack(">I", len(query)) + query.encode()
    return data


def haggling():
    assert Peer(flags=4).closed(), "unknown client flags"
    for data in (b"", b"ignored"):
        peer = Peer()
        assert peer.verdict(ABORT, data) == ACK and peer.closed()
    peer = Peer()
    assert peer.verdict(LIST, b"x") == INVALID
    assert peer.verdict(STARTTLS, b"x") == INVALID
    assert peer.verdict(STARTTLS) == POLICY
    assert peer.verdict(0xCAFE, b"y" * 100_000) == UNSUP
    *listed, (end, _) = peer.option(LIST)
    assert end == ACK and all(kind == SERVER for kind, _ in listed)
    names = [data[4:4 + struct.unpack(">I", data[:4])[0]].decode() for _, data in listed]
    assert sorted(names) == EXPORTS, names
    assert peer.verdict(SET_META, meta("vol", "base:allocation")) == INVALID
    assert peer.verdict(GO, go("nothing")) == UNKNOWN
    assert peer.verdict(GO, b"\0\0\xff\xff") == INVALID
    assert peer.verdict(STRUCTURED) == ACK
    assert len(peer.option(SET_META, meta("vol", "x-no:thing", "base:allocation"))) == 2
    assert peer.option(INFO, go("vol", 1, 3)) == peer.option(INFO, go("vol", 1, 3))
    # A failed SET_META leaves nothing selected.
    assert peer.verdict(SET_META, b"\0") == INVALID
    about = peer.option(INFO, go("vol", 3))
    assert peer.option(GO, go("vol", 3)) == about, "INFO and GO agree"
    peer.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 7, 1, 0, 4096))
    magic, flags, kind, cookie, length = struct.unpack(">IHHQI", peer.read(20))
    assert (magic, flags, kind, cookie) == (0x668E33EF, 1, 0x8001, 1)
    assert struct.unpack(">I", peer.read(length)[:4]) == (22,)
    # A refused write's payload is not taken for requests.
    bait = struct.pack(">IHHQQI", 0x25609513, 0, 2, 9, 0, 0)
    peer.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 1, 2, 1 << 40, len(bait)) + bait)
    magic, flags, kind, cookie, length = struct.unpack(">IHHQI", peer.read(20))
    assert (kind, cookie) == (0x8001, 2)
    assert struct.unpack(">I", peer.read(length)[:4]) == (28,)
    peer.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 2, 3, 0, 0))
    assert peer.closed(), "DISC"

    peer = Peer()
    peer.send_option(EXPORT_NAME, b"nothing")
    assert peer.closed()
    for flags, zeros in ((1, 124), (3, 0)):
        peer = Peer(flags)
        peer.send_option(EXPORT_NAME, b"vol")
        size, _ = struct.unpack(">QH", peer.read(10))
        assert size == 64 << 20 and peer.read(zeros) == b"\0" * zeros
        # Nothing but the reply follows; GO adds no zeros either.
        peer.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 1, 3, 42, 0, 0))
        assert peer.read(16) == struct.pack(">IIQ", 0x67446698, 0, 42)
        peer = Peer(flags)
        assert peer.verdict(GO, go("vol")) == ACK
        peer.socket.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 3, 43, 0, 0))
        assert peer.read(16) == struct.pack(">IIQ", 0x67446698, 0, 43)


def extended_headers():
    peer = Peer()
    assert peer.verdict(STRUCTURED) == ACK
    assert peer.verdict(EXTENDED) == ACK
    assert peer.verdict(STRUCTURED) == EXT_REQD
    assert len(peer.option(SET_META, meta("vol", "base:allocation"))) == 2
    assert peer.verdict(GO, go("vol")) == ACK

    def request(flags, command, offset, length, payload=b""):
        head = struct.pack(">IHHQQQ", 0x21E41C71, flags, command, 5, offset, length)
        peer.socket.sendall(head + payload)
        magic, flags, kind, cookie, same, size = struct.unpack(">IHHQQQ", peer.read(32))
        assert (magic, cookie, same) == (0x6E8A278C, 5, offset)
        return flags, kind, peer.read(size)

    assert request(32, 1, 50 << 20, 8192, b"z" * 8192) == (1, 0, b"")
    assert request(4, 0, 50 << 20, 3) == (1, 1, struct.pack(">Q", 50 << 20) + b"zzz")
    flags, kind, data = request(0, 7, 50 << 20, 1 << 20)
    assert (flags, kind) == (1, 6) and data == struct.pack(
        ">IIQQQQ", 1, 2, 8192, 0, (1 << 20) - 8192, 3)
    assert request(0, 6, 50 << 20, 8192) == (1, 0, b"")
    peer2 = Peer()
    assert peer2.verdict(EXTENDED) == ACK
    peer2.send_option(EXPORT_NAME, b"vol")
    assert peer2.closed(), "EXPORT_NAME after EXTENDED_HEADERS"


def fails(errno, action):
    try:
        action()
    except nbd.Error as error:
        assert error.errno == errno, (errno, error.errno, error.string)
    else:
        raise AssertionError("it should have failed: %s" % errno)


def libnbd():
    handle = nbd.NBD()
    handle.add_meta_context("base:allocation")
    handle.set_strict_mode(0)  # let it send what it should not
    handle.set_export_name(DEFAULT)
    handle.connect_tcp(HOST, str(PORT))
    size = handle.get_size()
    handle.pwrite(b"q" * 4096, 8192)
    chunks = []
    handle.pread_structured(
        65536, 0, lambda data, offset, status, error: chunks.append((offset, len(data), status)))
    assert sorted(chunks) == [(0, 8192, nbd.READ_HOLE), (8192, 4096, nbd.READ_DATA),
                              (12288, 53248, nbd.READ_HOLE)], chunks
    chunks.clear()
    handle.pread_structured(
        65536, 0, lambda data, offset, status, error: chunks.append(status), nbd.CMD_FLAG_DF)
    assert chunks == [nbd.READ_DATA]
    found = []
    handle.block_status(
        65536, 0, lambda context, offset, entries, error: found.append((context, entries)))
    assert found == [("base:allocation", [8192, 3, 4096, 0, 53248, 3])], found
    found.clear()
    handle.block_status(65536, 8192, lambda c, o, entries, e: found.append(entries),
                        nbd.CMD_FLAG_REQ_ONE)
    assert found == [[4096, 0]]

    fails("EINVAL", lambda: handle.pread(2, size - 1))
    fails("ENOSPC", lambda: handle.pwrite(b"ab", size - 1))
    fails("ENOSPC", lambda: handle.zero(2, size - 1))
    fails("EINVAL", lambda: handle.trim(2, size - 1))
    fails("EINVAL", lambda: handle.cache(2, size - 1))
    fails("EINVAL", lambda: handle.pread(1, 0, 0x4000))
    handle.zero(4096, 8192, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
    handle.trim(4096, 8192, nbd.CMD_FLAG_FUA)
    handle.trim(0, 0)
    handle.zero(0, 0)
    handle.flush()
    assert handle.pread(4096, 8192) == bytearray(4096)
    handle.shutdown()


def read_only():
    handle = nbd.NBD()
    handle.set_export_name("ro")
    handle.set_strict_mode(0)
    handle.connect_tcp(HOST, str(PORT))
    assert handle.is_read_only() and handle.can_multi_conn()
    fails("EPERM", lambda: handle.pwrite(b"x" * 512, 0))
    fails("EPERM", lambda: handle.zero(512, 0))
    fails("EPERM", lambda: handle.trim(512, 0))
    handle.pread(512, 0)
    handle.flush()
    handle.shutdown()


haggling()
extended_headers()
libnbd()
if "ro" in EXPORTS:
    read_only()
print("all checks passed")
