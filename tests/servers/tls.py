"""A certificate authority of a company's own, nginx with its certificate before a sandbox, and a proxy."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from yarl import URL

from bulkpull.sandbox import Sandbox
from tests.servers.running import running_nginx

HOST = "localhost"


def make_authority(directory: Path) -> Path:
    """Write `ca.pem`, and `server.pem` and `server.key` that it has signed; return the path of the first."""
    now = datetime.now(UTC)
    root, server = (x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]) for name in ("Own CA", HOST))
    root_key, server_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def certificate(subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_ca: bool) -> bytes:
        made = x509.CertificateBuilder(
            root,
            subject,
            key.public_key(),
            x509.random_serial_number(),
            now - timedelta(hours=1),
            now + timedelta(days=1),
        )
        made = made.add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        if not is_ca:
            made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        return made.sign(root_key, hashes.SHA256()).public_bytes(Encoding.PEM)

    (directory / "ca.pem").write_bytes(certificate(root, root_key, is_ca=True))
    (directory / "server.pem").write_bytes(certificate(server, server_key, is_ca=False))
    key = server_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "server.key").write_bytes(key)
    return directory / "ca.pem"


def trusting(authority: Path) -> ssl.SSLContext:
    """Return a context that trusts the authority alone."""
    return ssl.create_default_context(cafile=str(authority))


@contextmanager
def behind_tls(sandbox: Sandbox, authority: Path) -> Iterator[str]:
    """Put nginx before a sandbox's API and its file host; yield the URL of the API."""
    api, files = URL(sandbox.url), URL(sandbox.files.url)

    def servers(ports: list[int]) -> str:
        return "".join(
            f"""server {{
                listen 127.0.0.1:{port} ssl;
                ssl_certificate {authority.with_name("server.pem")};
                ssl_certificate_key {authority.with_name("server.key")};
                location / {{ proxy_pass {target.origin()}; proxy_http_version 1.1; proxy_buffering off; }}
            }}"""
            for port, target in zip(ports, (api, files), strict=True)
        )

    with running_nginx(servers, 2) as [api_port, files_port]:
        sandbox.files.url = f"https://{HOST}:{files_port}"
        yield f"https://{HOST}:{api_port}{api.path}"


@dataclass(slots=True)
class Proxy:
    """An HTTP proxy that tunnels. `asked` has the heads of all requests."""

    url: str = ""
    asked: list[str] = field(default_factory=list)

    @property
    def targets(self) -> set[str]:
        """The hosts, with ports, to which there were tunnels."""
        return {head.split()[1] for head in self.asked}

    @property
    def users(self) -> set[str]:
        """Users and passwords that came with the requests."""
        lines = [line for head in self.asked for line in head.splitlines()]
        sent = [line.split()[-1] for line in lines if line.startswith("Proxy-Authorization: Basic ")]
        return {b64decode(credentials).decode() for credentials in sent}


@asynccontextmanager
async def tunnelling(*, refuses_with: str = "") -> AsyncIterator[Proxy]:
    """Run a proxy, or one that answers each request with a status."""
    proxy = Proxy()
    tunnels: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        with suppress(OSError):
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tunnels.add(task)
        try:
            proxy.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
            if refuses_with:
                writer.write(f"HTTP/1.1 {refuses_with}\r\nContent-Length: 0\r\n\r\n".encode())
                return
            host, _, port = proxy.asked[-1].split()[1].rpartition(":")
            onward_reader, onward = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            async with anyio.create_task_group() as group:
                group.start_soon(forward, reader, onward)
                group.start_soon(forward, onward_reader, writer)
        except asyncio.CancelledError:  # the end of the test
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        for tunnel in tunnels:
            tunnel.cancel()
        await asyncio.gather(*tunnels)
        await server.wait_closed()
