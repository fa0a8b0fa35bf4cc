"""From a prepared catalogue to a bundle, and what the bundle is worth."""
