"""Prepare image files that chance has broken, and print what became of them: a program of its own.

`python -m tests.runtime.images.mutated_files COUNT SEED` prints JSON: how many were read and how many
refused, what was raised beside that, and the memory of the process after a hundredth of the files, at the
end, and at most, in bytes.
"""

from __future__ import annotations

import json
import random
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from edgephi.bundle.image_tokens import ImageFacts
from edgephi.errors import BadInputError
from edgephi.runtime.images import prepare
from edgephi.runtime.proof.measure import peak_memory_bytes
from tests.runtime.images.drawn import drawn, saved

FACTS = ImageFacts(tile=28, patch=14, crops=4, hidden_size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def whole_files() -> list[bytes]:
    """Small files of all kinds and forms."""
    picture, exif = drawn(24, 17), Image.Exif()
    exif[0x0112] = 6
    more = [drawn(24, 17, seed) for seed in (1, 2)]
    moving = {"save_all": True, "append_images": more}
    return [
        saved(picture, "PNG", exif=exif),
        saved(picture.quantize(16), "PNG", transparency=3),
        saved(picture.convert("I;16"), "PNG"),
        saved(picture, "PNG", **moving),
        saved(picture, "JPEG", exif=exif),
        saved(picture, "JPEG", progressive=True, quality=60),
        saved(picture.convert("CMYK"), "JPEG"),
        saved(picture, "MPO", **moving),
        saved(picture, "GIF", **moving),
        saved(picture.quantize(16), "GIF", interlace=1, transparency=2),
        saved(picture, "WEBP", exif=exif),
        saved(picture.convert("RGBA"), "WEBP", lossless=True),
        saved(picture, "WEBP", **moving),
        saved(picture, "BMP"),
        saved(picture.quantize(16), "BMP"),
    ]


def mutated(files: list[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Files with bytes changed, left out, put in, cut off, or of two files."""
    chance = random.Random(seed)
    for number in range(count):
        data = bytearray(files[number % len(files)])
        for _ in range(chance.choice((1, 1, 2, 4, 16))):
            # Headers are short, and most is decided there.
            end = len(data) if chance.random() < 0.5 else min(len(data), 64)
            place = chance.randrange(end)
            match chance.randrange(6):
                case 0 | 1:
                    data[place] = chance.randrange(256)
                case 2:
                    data[place] ^= 1 << chance.randrange(8)
                case 3:
                    del data[place : place + chance.choice((1, 2, 8, 64))]
                case 4:
                    data[place:place] = chance.randbytes(chance.choice((1, 4, 64)))
                case _:
                    other = chance.choice(files)
                    data[place:] = other[min(place, len(other)) :]
            if len(data) < 4:
                break
        yield bytes(data)


def memory() -> int:
    """What this process holds, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main(count: int, seed: int) -> None:
    """Prepare so many files, and print what became of them."""
    counts = {"read": 0, "refused": 0}
    others: list[str] = []
    held = 0
    for number, data in enumerate(mutated(whole_files(), count, seed)):
        if number == count // 100:
            held = memory()
        try:
            prepare(data, FACTS)
            counts["read"] += 1
        except BadInputError as refusal:
            counts["refused"] += 1
            if "\n" in refusal.message or not refusal.hint:
                others.append(refusal.message)
        except Exception as other:
            others.append(f"{number}: {type(other).__name__}: {other}")
    found = {**counts, "others": others, "held": held, "end": memory(), "peak": peak_memory_bytes()}
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
