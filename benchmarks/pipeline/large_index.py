"""``python -m benchmarks.pipeline.large_index FOLDER make|load``: the index of ``FOLDER/list.txt``, cached there.

``make`` stores a scan with made-up sizes (half a million files need not exist for this); ``load`` loads it as
``load_data_set`` does, and prints seconds and the growth of resident memory.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np

from fastlift.data.lists import parse_list, read_bytes
from fastlift.data.problems import Problems
from fastlift.data.scan import Scan, cache_file_of, cached_scan, finish_index, store_scan


def _resident_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def main() -> None:
    folder, order = Path(sys.argv[1]), sys.argv[2]
    if order == "make":
        key = read_bytes(folder / "list.txt")
        listing = parse_list(key.decode(), "list.txt", None, Problems(""))
        random = np.random.default_rng(0)
        widths, heights = random.integers(100, 800, (2, len(listing.paths)), dtype=np.int32)
        scan = Scan(listing.paths, listing.labels, widths, heights, {})
        store_scan(cache_file_of(folder, key, folder), scan)
        return
    before, start, cpu = _resident_mib(), time.perf_counter(), time.process_time()
    key = read_bytes(folder / "list.txt")

    def never() -> None:
        raise RuntimeError("the cache was not used")

    scan = cached_scan(folder, key, never, folder)  # type: ignore[arg-type]
    names = tuple(f"class {i}" for i in range(int(scan.labels.max()) + 1))
    index = finish_index("large", folder, scan, names, "stop", Problems(""))
    elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert index.paths[len(index) - 1].endswith(".jpg")
    print(json.dumps({"seconds": elapsed, "cpu_s": cpu, "growth_mib": _resident_mib() - before, "lines": len(index)}))


if __name__ == "__main__":
    main()
