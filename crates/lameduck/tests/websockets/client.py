"""WebSockets of Python's `websockets`: says when all are open, and how each ended, as JSON."""

import asyncio
import json
import ssl
import sys

import websockets

address, count = sys.argv[1], int(sys.argv[2])
trust = ssl.create_default_context(cafile=sys.argv[3]) if len(sys.argv) > 3 else None


async def one(opened):
    # Any size, and no ping of its own that could end it.
    async with websockets.connect(address, ssl=trust, ping_interval=None) as socket:
        opened.release()
        messages = 0
        try:
            while True:
                await socket.recv()
                messages += 1
        except websockets.ConnectionClosed as closed:
            frame = closed.rcvd
            return [frame.code if frame else None, frame.reason if frame else None, messages]


async def main():
    opened = asyncio.Semaphore(0)
    sockets = [asyncio.create_task(one(opened)) for _ in range(count)]
    for _ in sockets:
        await opened.acquire()
    print("open", flush=True)
    print(json.dumps(await asyncio.gather(*sockets)), flush=True)


asyncio.run(main())
