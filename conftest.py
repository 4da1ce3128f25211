"""What holds for all tests, those of the plugins too."""

import os

# Before torch is imported. Small tensors are slower on several threads, processes that tests start would fight over the
# cores, and convolutions on another number of threads differ in the last bits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
