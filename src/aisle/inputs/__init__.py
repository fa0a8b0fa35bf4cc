"""The one way in: every text and every image passes here, in training, serving and bulk prediction alike."""
