"""A token server for a real registry: https://distribution.github.io/distribution/spec/auth/token."""

import base64
import contextlib
import datetime
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

_NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tokens")])


@dataclass
class TokenServer:
    """Gives tokens to one user; `scopes` are those that were asked for, in order."""

    user: str
    password: str
    lives_seconds: int
    key: ec.EllipticCurvePrivateKey
    certificate: bytes
    chain: str
    address: str = ""
    service: str = "test registry"
    issuer: str = "test tokens"
    identity_token: str = "who-we-are"
    scopes: list[str] = field(default_factory=list)

    def token(self, scope: str) -> str:
        """A token for that scope, in the form that Docker's registry reads."""
        kind, name, actions = scope.split(":")
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": self.user,
            "aud": self.service,
            "exp": now + self.lives_seconds,
            "nbf": now - 1,
            "iat": now,
            "jti": str(len(self.scopes)),
            "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
        }
        header = {"typ": "JWT", "alg": "ES256", "x5c": [self.chain]}
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
        r, s = decode_dss_signature(self.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{_encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


@contextlib.contextmanager
def serve_tokens(
    user: str, password: str, *, lives_seconds: int = 300, address: str = "127.0.0.1"
) -> Iterator[TokenServer]:
    """Give tokens to `user` while the block runs."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_NAME)
        .issuer_name(_NAME)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    chain = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
    tokens = TokenServer(user, password, lives_seconds, key, pem, chain)

    class Handler(_Handler):
        server_tokens = tokens

    server = ThreadingHTTPServer((address, 0), Handler)
    server.daemon_threads = True
    tokens.address = f"http://{address}:{server.server_port}/token"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield tokens
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_tokens: TokenServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def do_GET(self) -> None:
        """A user with a password, or nobody."""
        tokens = self.server_tokens
        packed = base64.b64encode(f"{tokens.user}:{tokens.password}".encode()).decode()
        self._answer(urlsplit(self.path).query, self.headers.get("Authorization") == f"Basic {packed}")

    def do_POST(self) -> None:
        """An identity token in a form."""
        form = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._answer(form, parse_qs(form).get("refresh_token") == [self.server_tokens.identity_token])

    def _answer(self, asked: str, is_known: bool) -> None:
        tokens = self.server_tokens
        parameters = parse_qs(asked)
        is_right = is_known and parameters.get("service") == [tokens.service]
        document: dict[str, object] = {}
        if is_right:
            scope = parameters["scope"][0]
            tokens.scopes.append(scope)
            document = {"access_token": tokens.token(scope), "expires_in": 300}
        data = json.dumps(document).encode()
        self.send_response(200 if is_right else 401)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
