"""The closed loop: what asks for a new model, and the way of one from the corrections to the champion."""
