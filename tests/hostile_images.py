"""Images that are damaged, or made to cost a server memory or time; and good ones of many kinds to make them from."""

import io
import random
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo


def picture(width: int = 64, height: int = 48) -> Image.Image:
    blocks = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


def encoded(kind: str = "JPEG", image: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or picture()).save(buffer, kind, **options)
    return buffer.getvalue()


def animated(kind: str) -> bytes:
    return encoded(kind, save_all=True, append_images=[picture().rotate(90 * turn) for turn in (1, 2)])


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_header(width: int, height: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def png(*chunks: bytes, width: int = 8, height: int = 8) -> bytes:
    """A whole PNG, black, with chunks of its own between header and pixels."""
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * (1 + 3 * width) * height))
    return b"\x89PNG\r\n\x1a\n" + png_header(width, height) + b"".join(chunks) + pixels + chunk(b"IEND")


def webp(kind: bytes, content: bytes) -> bytes:
    body = b"WEBP" + kind + struct.pack("<I", len(content)) + content
    return b"RIFF" + struct.pack("<I", len(body)) + body


def huge_webps() -> list[bytes]:
    """16,383 x 16,383 as lossless, lossy and extended WebP."""
    side = 16_382
    lossless = b"\x2f" + (side | side << 14).to_bytes(4, "little") + bytes(16)
    lossy = b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", side + 1, side + 1) + bytes(16)
    extended = bytes(4) + 2 * side.to_bytes(3, "little") + bytes(16)
    return [webp(b"VP8L", lossless), webp(b"VP8 ", lossy), webp(b"VP8X", extended)]


SOURCES = {
    "jpeg": encoded(exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"),
    "progressive": encoded(progressive=True),
    "cmyk": encoded(image=picture().convert("CMYK")),
    "mpo": animated("MPO"),
    "png": encoded("PNG", pnginfo=(lambda info: info.add_text("a", "b" * 99, zip=True) or info)(PngInfo())),
    "palette": encoded("PNG", picture().quantize(16), transparency=b"\x00\x80"),
    "apng": animated("PNG"),
    "webp": encoded("WEBP"),
    "lossless": encoded("WEBP", lossless=True),
    "animation": animated("WEBP"),
    "avif": encoded("AVIF"),
}


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Bytes changed, cut out, doubled and set to extremes; more often where the headers are."""
    out = bytearray(data)
    for _ in range(draw.choice([1, 2, 4, 8])):
        at = min(len(out) - 1, int(draw.choice([draw.randrange(len(out)), draw.expovariate(1 / 40)])))
        piece = draw.choice([draw.randbytes(1), b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"])
        where = draw.choice([slice(at, at + len(piece)), slice(at, at), slice(at, at + draw.randrange(20))])
        out[where] = draw.choice([piece, out[at : at + 40]])
        out = out or bytearray(1)
    return checksummed(bytes(out)) if data.startswith(b"\x89PNG") else bytes(out)


def checksummed(data: bytes) -> bytes:
    """A PNG whose checksums are right again: damage is to reach what reads the chunks."""
    out, at = bytearray(data[:8]), 8
    while (end := at + 12 + int.from_bytes(data[at : at + 4], "big")) <= len(data):
        out += data[at : end - 4] + struct.pack(">I", zlib.crc32(data[at + 4 : end - 4]))
        at = end
    return bytes(out) + data[at:]


# ------------------------------------------------------------------------------- what a server is sent by the hostile


def bombs() -> dict[str, bytes]:
    """Small files that would be large in memory or take long."""
    packed = zlib.compress(bytes(120_000_000), 9)  # 120 KB
    jpeg, scans = encoded(), encoded(progressive=True)
    size = jpeg.index(b"\xff\xc0") + 5  # of the frame's header, after marker, length and precision
    start = scans.rindex(b"\xff\xda")
    frames = [picture(16, 16).rotate(angle) for angle in range(200)]
    return {
        "png": b"\x89PNG\r\n\x1a\n" + png_header(60_000, 60_000) + chunk(b"IDAT", packed) + chunk(b"IEND"),
        "largest png": b"\x89PNG\r\n\x1a\n"
        + png_header(6300, 6300)
        + chunk(b"IDAT", packed)
        + chunk(b"IEND"),
        "png text": png(chunk(b"zTXt", b"a\0\0" + packed)),
        "png texts": png(*[chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000)))] * 1000),
        "png profile": png(chunk(b"iCCP", b"a\0\0" + packed)),
        "png pixels": png(chunk(b"IDAT", packed)),
        "jpeg size": jpeg[:size] + b"\xff\xdc\xff\xdc" + jpeg[size + 4 :],
        "jpeg scans": scans[:start] + scans[start:-2] * 500 + scans[-2:],
        "webp frames": encoded("WEBP", frames[0], save_all=True, append_images=frames),
        "png frames": encoded("PNG", frames[0], save_all=True, append_images=frames),
        **{f"webp {number}": data for number, data in enumerate(huge_webps())},
    }


def impostors() -> dict[str, bytes]:
    """Files that are two things at once, or not what they begin as."""
    archive = io.BytesIO(encoded())
    archive.seek(0, io.SEEK_END)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("page.html", "<script>")
    documents = {
        "gif": encoded("GIF"),
        "pdf": b"%PDF-1.7\n1 0 obj <</Type /Catalog>> endobj",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file",
        "html": b"<!doctype html><script>alert(1)</script>",
    }
    starts = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n", "webp": b"RIFF\xff\0\0\0WEBP"}
    return {
        "jpeg and zip": archive.getvalue(),
        "png and jpeg": png() + encoded(),
        "gif before jpeg": b"GIF89a" + encoded(),
        **documents,
        **{
            f"{kind} before {name}": start + data
            for kind, start in starts.items()
            for name, data in documents.items()
        },
    }
