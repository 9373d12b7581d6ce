"""Calls and streams of grpcio, until told to end by a line on standard input; what became of them, as JSON."""

import json
import sys
import threading

import grpc

CALLS = 8
STREAMS = 20

address = sys.argv[1]
ending = threading.Event()
lock = threading.Lock()
answered, failed, streams = 0, [], []


def varint(number):
    out = b""
    while number > 0x7F:
        out += bytes([number & 0x7F | 0x80])
        number >>= 7
    return out + bytes([number])


def as_it_is(data):
    return data


def calls():
    global answered
    with grpc.insecure_channel(address) as channel:
        add = channel.unary_unary("/arena.v1.Counter/Add", as_it_is, as_it_is)
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


def stream(count, begun):
    with grpc.insecure_channel(address) as channel:
        watch = channel.unary_stream("/arena.v1.Counter/Watch", as_it_is, as_it_is)
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


threads = [threading.Thread(target=calls) for _ in range(CALLS)]
begun = threading.Semaphore(0)
for nth in range(STREAMS):
    threads.append(threading.Thread(target=stream, args=(0 if nth % 2 == 0 else 100, begun)))
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
