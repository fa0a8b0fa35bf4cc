"""Champion and challenger in one service: who answers, and who is better."""
