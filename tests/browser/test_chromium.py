"""The browser that other tests use."""

from __future__ import annotations

import asyncio

from selenium.webdriver import Chrome


async def test_chromium_shows_a_page_of_this_machine(chromium: Chrome) -> None:
    writers: list[asyncio.StreamWriter] = []

    async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A browser opens connections ahead of need, and says nothing on some of them.
        writers.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        body = b"<title>log</title><p>hello"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n"
        writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(page, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        await asyncio.to_thread(chromium.get, f"http://127.0.0.1:{port}/")
        assert await asyncio.to_thread(lambda: chromium.title) == "log"
        for writer in writers:
            writer.transport.abort()
