"""The recipe `full`: pretrained transformers and image networks, fine-tuned by PyTorch and the package transformers.

Nothing outside this folder imports them, and nothing but training imports this folder.
"""
