"""Small tools for tensors and processes, which know nothing of the method."""
