"""Takes a folder of the cache, slowly filled if need be: ``fills_the_cache.py LOG``."""

import os
import sys
import time
from pathlib import Path

from files.cache import cached, is_intact


def fill(folder):
    with open(sys.argv[1], "a") as log:
        log.write(f"{os.getpid()}\n")
    for number in range(5):
        (folder / f"{number}.bin").write_bytes(bytes(1000))
        time.sleep(0.1)


if __name__ == "__main__":
    folder = cached("model", fill)
    assert is_intact(folder) and len([*Path(folder).iterdir()]) == 6
