"""What an offline run of W&B holds."""

import json
import struct

from wandb.proto import wandb_internal_pb2 as protocol

BLOCK, HEADER = 32 * 1024, 7


def read_back(directory):
    """The records of the offline run in ``directory``, a log in the format of LevelDB.

    After a header of 7 bytes the file is cut into blocks of 32 KiB; a record lies in one or more chunks, each with
    checksum (4 bytes), length (2) and kind (1 whole, 2 first, 3 middle, 4 last); chunks do not cross blocks.
    """
    (path,) = directory.glob("wandb/offline-run-*/run-*.wandb")
    content, at, pending, records = path.read_bytes(), HEADER, b"", []
    while at + HEADER <= len(content):
        left = BLOCK - at % BLOCK
        if left < HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + HEADER])
        pending += content[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):
            records.append(protocol.Record.FromString(pending))
            pending = b""
    assert not pending
    return records


def items(records, kind):
    """Key → value of all updates of one kind of record (summary, history), later ones last."""
    found = {}
    for record in records:
        if record.WhichOneof("record_type") == kind:
            part = getattr(record, kind)
            for item in part.item if kind == "history" else part.update:
                found.setdefault(item.key or "/".join(item.nested_key), []).append(json.loads(item.value_json))
    return found
