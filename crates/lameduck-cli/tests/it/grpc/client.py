"""Calls and streams of grpcio, and what became of them as JSON.

`load` calls until a line comes on standard input, or each loop until its first failure; `slow` makes one call that takes
long.
"""

import json
import sys
import threading

import grpc

CALLS = 8
STREAMS = 20

what, address = sys.argv[1:3]
authority = sys.argv[3] if len(sys.argv) > 3 else None
ending = threading.Event()
lock = threading.Lock()
answered, failed, streams = 0, [], []


def channel():
    if authority is None:
        return grpc.insecure_channel(address)
    with open(authority, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    named = [("grpc.ssl_target_name_override", "localhost")]
    return grpc.secure_channel(address, credentials, named)


def varint(number):
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def as_it_is(data):
    return data


def adding(opened):
    return opened.unary_unary("/arena.v1.Counter/Add", as_it_is, as_it_is)


def calls():
    global answered
    with channel() as opened:
        add = adding(opened)
        while not ending.is_set():
            try:
                add(b"", timeout=30)
                with lock:
                    answered += 1
                    if answered == 200:
                        print("flowing", flush=True)
            except grpc.RpcError as error:
                with lock:
                    failed.append([error.code().name, error.details()])
                return


def stream(count, begun):
    with channel() as opened:
        watch = opened.unary_stream("/arena.v1.Counter/Watch", as_it_is, as_it_is)
        request = b"\x10\x05" if count == 0 else b"\x08" + varint(count) + b"\x10\x05"
        messages = 0
        try:
            for _ in watch(request, timeout=60):
                messages += 1
                if messages == 1:
                    begun.release()
            end = ["OK", ""]
        except grpc.RpcError as error:
            end = [error.code().name, error.details()]
            if messages == 0:
                begun.release()
        with lock:
            streams.append([count, messages, *end])


def slow():
    with channel() as opened:
        try:
            adding(opened)(b"\x10" + varint(600_000), timeout=60)
            print(json.dumps(["OK", ""]), flush=True)
        except grpc.RpcError as error:
            print(json.dumps([error.code().name, error.details()]), flush=True)


def load():
    threads = [threading.Thread(target=calls) for _ in range(CALLS)]
    begun = threading.Semaphore(0)
    for nth in range(STREAMS):
        count = 0 if nth % 2 == 0 else 100
        threads.append(threading.Thread(target=stream, args=(count, begun)))
    for thread in threads:
        thread.start()
    for _ in range(STREAMS):
        begun.acquire()
    print("streaming", flush=True)
    sys.stdin.readline()
    ending.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"answered": answered, "failed": failed, "streams": streams}), flush=True)


{"load": load, "slow": slow}[what]()
