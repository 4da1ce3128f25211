"""The method: student, teacher and stages combined into a loss."""
