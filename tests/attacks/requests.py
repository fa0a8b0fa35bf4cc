"""Hostile requests, byte for byte, as no HTTP client would send them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

FORM = b"multipart/form-data; boundary=b"
ENCODED = b"application/x-www-form-urlencoded"
JSON = b"application/json"
REFUSED = frozenset({400, 404, 405, 408, 411, 413, 414, 415, 417, 422, 431, 501, 505})
HUNG_UP = 0
"""Instead of a status: the connection was closed without one."""
BROKEN = REFUSED | {HUNG_UP}


@dataclass(frozen=True)
class Raw:
    """What is written to a connection: `content` in blocks of `block` bytes, then perhaps a `farewell`.

    A body that is not finished is left so otherwise: only the service can end it.
    """

    name: str
    content: bytes
    right: frozenset[int] = BROKEN
    block: int = 1 << 16
    farewell: bool = False


def hostile_requests(token: str) -> Iterator[Raw]:
    def posted(kind: bytes, body: bytes, *more: bytes, length: int | None = None, path: bytes = b"/predict") -> bytes:
        size = b"%d" % (len(body) if length is None else length)
        headers = (b"Host: a", b"Authorization: " + token.encode(), b"Content-Type: " + kind, *more)
        return b"\r\n".join([b"POST " + path + b" HTTP/1.1", *headers, b"Content-Length: " + size, b"", body])

    def chunked(kind: bytes, body: bytes) -> bytes:
        head = posted(kind, b"", b"Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
        return head + body

    good = field(b"designation", b"piscine") + b"--b--\r\n"
    yield Raw("a form that is fine", posted(FORM, good), frozenset({200}))
    yield Raw("a body of chunks of one byte", chunked(FORM, ones(good)), frozenset({200}))
    yield Raw("a request written byte by byte", posted(FORM, good), frozenset({200}), block=1)
    yield from _lengths(posted, good)
    yield from _chunks(chunked)
    yield from _heads(posted, good, token)
    yield from _forms(posted)
    yield from _values(posted)


def field(name: bytes, value: bytes, *, file: bool = False) -> bytes:
    more = b'; filename="a.jpg"' if file else b""
    return b'--b\r\nContent-Disposition: form-data; name="' + name + b'"' + more + b"\r\n\r\n" + value + b"\r\n"


def ones(body: bytes) -> bytes:
    return b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"


def _lengths(posted, good: bytes) -> Iterator[Raw]:  # type: ignore[no-untyped-def]
    yield Raw("a length that is never reached", posted(FORM, good, length=100_000))
    yield Raw("a length that is never reached, and a farewell", posted(FORM, good, length=100_000), farewell=True)
    yield Raw("a length that is too short", posted(FORM, good, length=20), BROKEN)
    yield Raw("a length of exabytes", posted(FORM, good, length=10**18))
    yield Raw("a length of more digits than a number has", posted(FORM, good, length=10**40))
    yield Raw("a length below nothing", posted(FORM, good, length=-1))
    yield Raw("two lengths", posted(FORM, good, b"Content-Length: 5"))
    yield Raw("a length and chunks", posted(FORM, good, b"Transfer-Encoding: chunked"))
    yield Raw("a length that is a word", posted(FORM, good).replace(b"Content-Length: ", b"Content-Length: x"))
    yield Raw("no length", posted(FORM, b"").replace(b"Content-Length: 0\r\n", b""))
    yield Raw("100-continue and no body", posted(FORM, b"", b"Expect: 100-continue", length=500))
    yield Raw("nothing at all of 7 MiB", posted(JSON, b"", length=7 << 20))


def _chunks(chunked) -> Iterator[Raw]:  # type: ignore[no-untyped-def]
    yield Raw("a chunk whose size is a word", chunked(FORM, b"zz\r\n"))
    yield Raw("a chunk of exabytes", chunked(FORM, b"fffffffffffffff\r\n"))
    yield Raw("a chunk of more digits than a number has", chunked(FORM, b"f" * 500 + b"\r\n"))
    yield Raw("a chunk below nothing", chunked(FORM, b"-1\r\n"))
    yield Raw("chunks that never end", chunked(FORM, b"1\r\na\r\n" * 1_000))
    yield Raw("chunks of 9 MiB together", chunked(FORM, (b"10000\r\n" + bytes(1 << 16) + b"\r\n") * 144))
    yield Raw("a chunk with an extension of 1 MiB", chunked(FORM, b"1;" + b"a" * (1 << 20) + b"\r\na\r\n0\r\n\r\n"))
    yield Raw("trailers of 1 MiB", chunked(FORM, b"0\r\n" + b"a: b\r\n" * 180_000 + b"\r\n"))


def _heads(posted, good: bytes, token: str) -> Iterator[Raw]:  # type: ignore[no-untyped-def]
    yield Raw("a head of 100 MiB that never ends", b"GET / HTTP/1.1\r\nX: " + b"a" * (100 << 20))
    yield Raw("a header of 1 MiB", posted(FORM, good, b"X: " + b"a" * (1 << 20)))
    yield Raw("20,000 headers", posted(FORM, good, *[b"X: a"] * 20_000), BROKEN | {200})
    yield Raw("a header with NUL", posted(FORM, good, b"X: a\0b"))
    yield Raw("a header without a colon", posted(FORM, good, b"X"))
    yield Raw("a header that goes on", posted(FORM, good, b"X: a\r\n b"), BROKEN | {200})
    yield Raw("a request id of a line break", posted(FORM, good, b"X-Request-ID: a\rSet-Cookie: b"))
    yield Raw("an address of 1 MiB", b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\nHost: a\r\n\r\n")
    yield Raw("a method that is none", b"\xff\xfe / HTTP/1.1\r\nHost: a\r\n\r\n")
    yield Raw("a method of 1 MiB", b"G" * (1 << 20))
    yield Raw("a path that leads outside", b"GET /console/static/../../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n")
    yield Raw("the same, escaped", b"GET /console/static/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: a\r\n\r\n")
    yield Raw("a path of bytes", b"GET /%ff%00%c0%ae HTTP/1.1\r\nHost: a\r\n\r\n")
    yield Raw("another server's address", b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: a\r\n\r\n", BROKEN | {200})
    yield Raw("a tunnel", b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: a\r\n\r\n")
    yield Raw("TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(500))
    yield Raw("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(50))
    yield Raw("HTTP/9", b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", BROKEN | {200})
    yield Raw("half a head", b"POST /predict HTTP/1.1\r\nHost: a\r\nX-", frozenset({HUNG_UP, 400}), farewell=True)
    two = posted(FORM, good) + posted(FORM, b"--b--", length=1)
    yield Raw("a second request in the first", two, frozenset({200, 400}))
    wrong = posted(FORM, good).replace(token.encode(), b"Bearer " + b"x" * 8_000)
    yield Raw("a token of 8,000 letters", wrong, frozenset({401}))
    for what, forged in (("of half a letter", b"Bearer \xff.\xfe.\xfd"), ("of dots", b"Bearer " + b"." * 4_000)):
        yield Raw(f"a token {what}", posted(FORM, good).replace(token.encode(), forged), frozenset({401}))


def _forms(posted) -> Iterator[Raw]:  # type: ignore[no-untyped-def]
    many = 5_000
    yield Raw("5,000 fields", posted(FORM, field(b"a", b"b") * many + b"--b--"))
    yield Raw("5,000 files", posted(FORM, field(b"image", b"b", file=True) * many + b"--b--"))
    yield Raw("a form without its end", posted(FORM, field(b"designation", b"piscine")), BROKEN | {200})
    yield Raw("a form without its end, of 7 MiB", posted(FORM, field(b"image", bytes(7 << 20), file=True)[:-2]))
    yield Raw("no boundary", posted(b"multipart/form-data", field(b"a", b"b")))
    yield Raw("a boundary of 60,000", posted(FORM + b"b" * 60_000, b"--" + b"b" * 60_001))
    yield Raw("a boundary that is empty", posted(b'multipart/form-data; boundary=""', b"----\r\n"))
    yield Raw("a part of 500,000 headers", posted(FORM, b"--b\r\n" + b"a: b\r\n" * 500_000))
    yield Raw("a part with a header of 7 MiB", posted(FORM, b"--b\r\na: " + b"b" * (7 << 20)))
    yield Raw("a part without a name", posted(FORM, b"--b\r\nContent-Disposition: form-data\r\n\r\na\r\n--b--"))
    for what in (b"\r", b"\r\n", b"\r\n--", b"--b"):
        body = field(b"designation", what * ((6 << 20) // len(what))) + b"--b--"
        yield Raw(f"a field of {what!r}", posted(FORM, body), BROKEN)
    for charset in (b"undefined", b"idna", b"punycode", b"utf-7", b"unicode_escape", b"utf-16", b"x" * 5_000):
        body = field(b"designation", b"a" * 1_000_000) + b"--b--"
        yield Raw(f"the charset {charset[:20].decode()}", posted(FORM + b"; charset=" + charset, body))
    yield Raw("7 MB of %", posted(ENCODED, b"%" * 7_000_000))
    yield Raw("7 MB of &", posted(ENCODED, b"&" * 7_000_000))
    yield Raw("700 KB of %", posted(ENCODED, b"a=" + b"%" * 700_000))
    yield Raw("700 KB of &", posted(ENCODED, b"&" * 700_000))
    yield Raw("zipped", posted(JSON, b"\x1f\x8b" + bytes(100), b"Content-Encoding: gzip"))
    yield Raw("a folder in a name of a file", posted(FORM, field(b"../image", b"a", file=True) + b"--b--"))


def _values(posted) -> Iterator[Raw]:  # type: ignore[no-untyped-def]
    bodies = {
        "nested 3,000,000 deep": b"[" * 3_000_000,
        "objects nested 500,000 deep": b'{"a":' * 500_000,
        "2,000,000 lists": b"[" + b"[]," * 2_000_000 + b"1]",
        "600,000 keys": b"{" + b",".join(b'"%d":0' % number for number in range(600_000)) + b"}",
        "a number of 7,000,000 digits": b'{"designation":' + b"9" * 7_000_000 + b"}",
        "a number beyond all": b'{"designation":1e999999}',
        "not a number": b'{"designation":NaN}',
        "half a letter": b'{"designation":"\\ud800"}',
        "NUL": b'{"designation":"\\u0000"}',
        "a name twice": b'{"image":"QQ==","image":7,"designation":[]}',
        "an image of nothing but =": b'{"image":"' + b"=" * 5_000_000 + b'"}',
        "an image that is no base64": b'{"image":"' + b"A*" * 3_000_000 + b'"}',
        "a prototype": b'{"__proto__":{"role":"admin"},"constructor":1}',
        "a byte order mark": b"\xef\xbb\xbf{}",
        "UTF-32": '{"designation":"a"}'.encode("utf-32"),
    }
    for name, body in bodies.items():
        yield Raw(f"JSON: {name}", posted(JSON, body))
    for path in (b"/explain", b"/feedback", b"/alerts", b"/batches"):
        yield Raw(f"2,000,000 lists for {path.decode()}", posted(JSON, b"[" + b"[]," * 2_000_000 + b"1]", path=path))
        yield Raw(f"nested too deep for {path.decode()}", posted(JSON, b"[" * 15_000, path=path))
