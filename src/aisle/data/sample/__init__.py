"""The generated catalogue behind `--source sample`: everything in it is invented, nothing is downloaded.

`write_sample` makes a folder in the challenge's layout (see `raw`), with the dirt of the real data: missing
descriptions, HTML, entities, mojibake, twins, a few broken images, types of very unequal size. The words and
shapes that it is made of stand in `words.toml`.

Imports point one way: `words` ◄ `plan` ◄ `texts`, `images` ◄ `catalogue`.

The same rows and seed give the same bytes on every machine and in every run. Every product has generators
of its own, so product i is the same in a catalogue of any size, and memory does not grow with the images.
A product takes about a millisecond; Pillow draws and encodes under the interpreter's lock, so threads would
gain nothing.
"""

from aisle.data.sample.catalogue import write_sample

__all__ = ["write_sample"]
