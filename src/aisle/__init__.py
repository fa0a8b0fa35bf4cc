"""aisle puts every product of a catalogue into the right product type."""

__version__ = "0.1.0"
