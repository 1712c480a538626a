"""A proxy before an S3 server: it counts requests, holds bodies back, refuses some requests and breaks some off."""

import socket
import struct
import threading
import time

PIECE = 64 << 10


class Proxy:
    """Listens on a free port of 127.0.0.1 until `close`.

    Once `hold` bytes of bodies have passed, none passes until `release`. `refuse(method, target)` tells which requests
    are answered with 403 AccessDenied. `cut(method, target)` may return a function, which is called when half of the
    request's body has passed; then the connection is reset.
    """

    def __init__(self, upstream, hold=None):
        self.upstream = upstream
        self.hold = hold
        self.refuse = lambda method, target: False
        self.cut = lambda method, target: None
        self.requests = []
        self.body = 0
        self.changed = threading.Condition()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.release()
        self.listener.close()

    def until_held(self, ended, limit=300):
        """Waits until bodies are held back; False where `ended()` came first."""
        return self.until(lambda: self.body >= self.hold, ended, limit)

    def until(self, holds, ended, limit=300):
        deadline = time.monotonic() + limit
        with self.changed:
            while not holds():
                if ended() or time.monotonic() > deadline:
                    return False
                self.changed.wait(0.02)
        return True

    def release(self):
        with self.changed:
            self.hold = None
            self.changed.notify_all()

    def parts(self):
        """How many parts of files were begun to be sent; those with which the migrator tries out a server are none."""
        with self.changed:
            return sum(
                method == "PUT" and "partNumber=" in target and "/.storage/" not in target
                for method, target in self.requests
            )

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        try:
            server = socket.create_connection(self.upstream)
        except OSError:
            client.close()
            return
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=self._answers, args=(server, client), daemon=True).start()
        try:
            self._pass_requests(client, server)
        except OSError:
            pass
        for one in (server, client):
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def _answers(self, server, client):
        try:
            while piece := server.recv(64 << 10):
                client.sendall(piece)
        except OSError:
            pass
        try:
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _pass_requests(self, client, server):
        pending = b""
        while True:
            while b"\r\n\r\n" not in pending:
                piece = client.recv(PIECE)
                if not piece:
                    return
                pending += piece
            head, pending = pending.split(b"\r\n\r\n", 1)
            lines = head.decode("latin-1").split("\r\n")
            method, target, _ = lines[0].split(" ", 2)
            fields = dict(line.lower().split(":", 1) for line in lines[1:] if ":" in line)
            left = size = int(fields.get("content-length", "0").strip())
            with self.changed:
                self.requests.append((method, target))
                self.changed.notify_all()
            if self.refuse(method, target):
                body = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>refused</Message></Error>"
                client.sendall(
                    b"HTTP/1.1 403 Forbidden\r\ncontent-type: application/xml\r\nconnection: close\r\n"
                    b"content-length: %d\r\n\r\n" % len(body) + body
                )
                return
            cut = self.cut(method, target)
            server.sendall(head + b"\r\n\r\n")
            while left:
                piece = pending[:left] or client.recv(min(left, PIECE))
                if not piece:
                    return
                pending = pending[len(piece):]
                left -= len(piece)
                with self.changed:
                    self.changed.wait_for(lambda: self.hold is None or self.body < self.hold)
                    self.body += len(piece)
                    self.changed.notify_all()
                server.sendall(piece)
                if cut and left <= size // 2:
                    cut()
                    # Closed with nothing to wait for: a reset.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.close()
                    return
