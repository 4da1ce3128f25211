"""Student, teacher and stages become a loss: the method."""
