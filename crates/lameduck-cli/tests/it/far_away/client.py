"""A client far away: speaks TCP by hand over a TUN device, so that its round trip is as long as it likes.

Says "answered" when its SYN was, and once told "go" completes the handshake a round trip later, with a request right behind
it; told "go and leave" it asks for the end of the connection too. Then it says what came of it.
"""

import fcntl
import ipaddress
import os
import select
import socket
import struct
import sys
import time

DEVICE, ADDRESS, SERVER, PORT, ROUND_TRIP, LIMIT = sys.argv[1:]
ADDRESS, SERVER = ipaddress.ip_address(ADDRESS), ipaddress.ip_address(SERVER)
PORT, ROUND_TRIP, LIMIT = int(PORT), float(ROUND_TRIP), float(LIMIT)
OWN_PORT = 40000
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
# As far as most packets on the net have come; only 255 passes a shut gate.
TTL = 64
REQUEST = b"GET /version HTTP/1.1\r\nhost: far.example\r\n"


def attach(name):
    TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return device


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def segment(flags, number, acknowledged, payload=b""):
    def tcp(check):
        ports = struct.pack("!HHII", OWN_PORT, PORT, number, acknowledged)
        return ports + struct.pack("!BBHHH", 5 << 4, flags, 65535, check, 0) + payload

    length = len(tcp(0))
    if ADDRESS.version == 4:
        pseudo = struct.pack("!4s4sxBH", ADDRESS.packed, SERVER.packed, socket.IPPROTO_TCP, length)
        whole = (0x45, 0, 20 + length, 0, 0, TTL, socket.IPPROTO_TCP)
        head = struct.pack("!BBHHHBB", *whole)
        ends = ADDRESS.packed + SERVER.packed
        head += struct.pack("!H", checksum(head + b"\0\0" + ends)) + ends
    else:
        ends = (ADDRESS.packed, SERVER.packed)
        pseudo = struct.pack("!16s16sI3xB", *ends, length, socket.IPPROTO_TCP)
        head = struct.pack("!IHBB", 6 << 28, length, socket.IPPROTO_TCP, TTL)
        head += ADDRESS.packed + SERVER.packed
    return head + tcp(checksum(pseudo + tcp(0)))


def parse(packet):
    """Flags, number and payload of a segment to this client; None for anything else."""
    if packet[0] >> 4 != ADDRESS.version:
        return None
    start, protocol = ((packet[0] & 15) * 4, packet[9]) if ADDRESS.version == 4 else (40, packet[6])
    if protocol != socket.IPPROTO_TCP:
        return None
    tcp = packet[start:]
    source, destination, number = struct.unpack("!HHI", tcp[:8])
    if (source, destination) != (PORT, OWN_PORT):
        return None
    return tcp[13], number, tcp[(tcp[12] >> 4) * 4 :]


device = attach(DEVICE)


def next_segment(deadline):
    while True:
        ready, _, _ = select.select([device], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            return None
        found = parse(os.read(device, 65536))
        if found:
            return found


def say(word):
    print(word, flush=True)


deadline = time.monotonic() + LIMIT
number = 1000
os.write(device, segment(SYN, number, 0))
found = next_segment(deadline)
if found is None or found[0] & (SYN | ACK) != SYN | ACK:
    sys.exit(f"no SYN-ACK: {found}")
number += 1
acknowledged = found[1] + 1
say("answered")

order = sys.stdin.readline().strip()
if order not in ("go", "go and leave"):
    sys.exit()
REQUEST += b"connection: close\r\n\r\n" if order == "go and leave" else b"\r\n"
time.sleep(ROUND_TRIP)
os.write(device, segment(ACK, number, acknowledged))
os.write(device, segment(ACK | PSH, number, acknowledged, REQUEST))
number += len(REQUEST)
answer = b""
while True:
    found = next_segment(deadline)
    if found is None:
        say(f"nothing more behind {answer}")
        break
    flags, at, payload = found
    if flags & RST:
        say(f"reset behind {answer}")
        break
    if at != acknowledged:
        # A SYN-ACK that was sent again, or what was seen before.
        continue
    answer += payload
    acknowledged += len(payload) + (1 if flags & FIN else 0)
    if flags & FIN:
        os.write(device, segment(ACK | FIN, number, acknowledged))
        say(f"closed behind {answer}")
        break
    if payload:
        os.write(device, segment(ACK, number, acknowledged))
