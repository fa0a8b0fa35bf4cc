"""The recipe `lstm-vgg16`: the original project's model in Keras, without its defects.

Nothing outside this folder imports Keras, and nothing but training imports this folder.
"""
