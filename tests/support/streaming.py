"""``python tests/support/streaming.py FOLDER LOADER FIRST STOP K BATCH``: memory and hash of each chunk, as JSON."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from compare import machine
from compare.data.loaders import BatchIterator
from compare.data.loaders.records import Records
from compare.data.stream import IndexSampler


def main() -> None:
    folder, loader = sys.argv[1:3]
    first, stop, k, batch_size = map(int, sys.argv[3:])
    records = Records(Path(folder))
    sampler = IndexSampler(seed=3, batch_size=batch_size, train_size=len(records), k=k, first=first, stop=stop)
    memory, hashes = [], []
    with BatchIterator(records, sampler, loader=loader) as batches:
        for x, y in batches:
            hashes.append(hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest())
            memory.append(machine.pss_mb())
    print(json.dumps({"memory": memory, "hashes": hashes, "tensorflow": "tensorflow" in sys.modules}))


if __name__ == "__main__":
    main()
