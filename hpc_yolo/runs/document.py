"""Generator of docs/journal.md from the types of the events: `python -m hpc_yolo.runs.document > docs/journal.md`."""

from __future__ import annotations

import types
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from hpc_yolo.runs.events import FORMAT_VERSION, AnyEvent, Event, RankLocation
from hpc_yolo.runs.metrics import ClassMetrics, Metrics

HEAD = f"""# The journal of a run

`<run directory>/journal.jsonl`, format {FORMAT_VERSION}. Rank 0 appends one JSON object a line; lines never change.
Generated from `hpc_yolo/runs/events.py` by `python -m hpc_yolo.runs.document`; a test holds the two equal.

- Every line has `event` (its kind), `time` (seconds since 1970, by rank 0's clock) and `attempt` (the number of the
  attempt, from 1). Where an attempt could not record its end, the next one or the job's script does.
- Within a format, kinds and fields are only added: skip what you do not know. A number that is not finite is `null`.
  A run directory of an older format is refused.
- A crash may leave a torn last line. The next writer ends it with a newline: skip lines that are not JSON.
- After an interruption steps may be repeated: the later line counts.

The best evaluation so far, and the end of each attempt, with jq:

```sh
jq -rR 'fromjson? | select(.event == "evaluated" and .is_best) | [.epoch + 1, .metrics.map50] | @tsv' \\
  journal.jsonl | tail -n 1
jq -rR 'fromjson? | select(.event == "attempt_ended") | [.attempt, .cause, .step, .detail] | @tsv' journal.jsonl
```
"""

MEANINGS = {
    "time": "seconds since 1970",
    "attempt": "number of the attempt, from 1, over all jobs of the run",
    "format_version": "of this page's format",
    "job_id": "Slurm's id of the job, or the process id of submitit's controller; null where there is neither",
    "launcher": "who started the tasks: slurm, submitit-local, torchrun or single",
    "device": "name of rank 0's GPU, or cpu",
    "precision": "arithmetic of forward passes",
    "world_size": "number of ranks",
    "num_nodes": "number of nodes",
    "batch": "images of one step, over all ranks",
    "epochs": "passes over the training set in the whole run",
    "steps_per_epoch": "global batches of an epoch",
    "epoch": "from 0: the epoch under way, or the one that ended or was evaluated",
    "step": "global batches done since training began",
    "device_mem_bytes": "bytes of memory of rank 0's GPU; null on CPUs",
    "process_started": "when rank 0's process began, in seconds since 1970",
    "augment_device": "where training images are augmented, on rank 0: cpu or gpu",
    "ranks": "node and process of each rank",
    "rank": "number of the rank over all nodes, from 0",
    "local_rank": "its number on its node, from 0",
    "node_rank": "number of its node, from 0",
    "host": "name of its node",
    "pid": "its process id there",
    "stage": "directory of the copies, as the spec writes it",
    "done_bytes": "bytes that the nodes have, in total",
    "total_bytes": "bytes of all files, in total over the nodes",
    "copied_bytes": "bytes that this run has copied",
    "bytes_per_s": "bytes copied per second",
    "is_over": "whether the nodes are done with it",
    "split": "train or val",
    "total": "images that cannot be read any more, since the attempt began",
    "first": "paths of up to three of them",
    "kind": "memory, disk or off",
    "needed_bytes": "bytes of all decoded images at the training size",
    "cached_bytes": "bytes of those that are kept",
    "free_bytes": "bytes that were free where they are kept",
    "num_kept": "tensors of the model that were read from the file",
    "num_tensors": "tensors of the model",
    "best_possible_recall": "fraction of boxes that some anchor fits",
    "anchors_per_target": "anchors that fit a box, on average",
    "are_new": "true if they were computed for this dataset",
    "anchors": "of each level, width and height in turn, in pixels",
    "losses": "terms of the loss by name, with their gains",
    "grad_norm": "norm of the gradients of the last step, before clipping",
    "lr": "learning rate of the weights",
    "images_per_s": "images a second over all ranks",
    "rank_step_s": "seconds a step, by rank",
    "rank_data_wait_s": "seconds of each step in which the rank waited for images, by rank",
    "rank_forward_s": "seconds of each step that the rank computed before it waited for the others, by rank",
    "rank_batches_ready": "batches that its loader workers had ready when a step asked for one, the mean by rank: 0 "
    "where the steps wait for the workers, more where the workers wait for the steps",
    "rank_device_use": "fraction of the last moments in which the rank's GPU was busy, by rank; null where unknown",
    "signal": "number of the signal; null after the last step",
    "rank_mem_bytes": "most bytes of memory that the rank has used: reserved on its GPU, or resident without one",
    "seconds": "duration in seconds",
    "num_images": "images of the training set, or of an evaluation",
    "precision_metric": "fraction of detections that are correct, at the confidence where F1 is highest",
    "recall": "fraction of objects that are found, at that confidence",
    "map50": "mean average precision at IoU 0.5, 0 to 1",
    "map50_95": "mean over the IoU thresholds 0.5, 0.55 … 0.95, 0 to 1",
    "is_best": "true for the best evaluation of the run so far",
    "is_aside": "true for an evaluation by a job of its own (`validate: aside`)",
    "rule": "median or asha (`sweep.stop.rule`)",
    "metric": "name of the metric that is compared (`sweep.stop.metric`)",
    "value": "of this trial; null where it is not finite",
    "threshold": "the lowest value with which the trial would go on",
    "num_compared": "number of other trials",
    "metrics": "means over the classes, or of one class",
    "classes": "metrics of each class that has labels",
    "name": "of the class",
    "num_labels": "objects of the class",
    "path": "of the file; of checkpoints and results relative to the run directory",
    "size_bytes": "its size in bytes",
    "message": "text",
    "outcome": "finished, stopped or failed",
    "detail": "text",
    "cause": "finished, preempted, time limit, node failure, killed, out of memory, stalled, error, cancelled or "
    "interrupted",
    "requeued": "true if the run continues automatically",
    "is_idle": "true if it was stopped before its first step, and not by a preemption that Slurm confirms",
    "failed_nodes": "nodes that failed",
}
COMMON = ("time", "attempt")


def document() -> str:
    """Return the page as Markdown."""
    kinds = [_table(f"`{kind.__struct_config__.tag}`", kind) for kind in get_args(AnyEvent)]
    return "\n".join(
        [
            HEAD,
            *kinds,
            _table("Items of `ranks`", RankLocation),
            _table("`metrics`", Metrics),
            _table("Items of `classes`", ClassMetrics),
        ],
    )


def _table(title: str, kind: type[msgspec.Struct]) -> str:
    about = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    rows = [f"## {title}\n", f"{about}\n", "| field | type | meaning |", "| --- | --- | --- |"]
    hints = get_type_hints(kind)
    for field in msgspec.structs.fields(kind):
        if not (issubclass(kind, Event) and field.name in COMMON):
            rows.append(f"| `{field.name}` | {_type_text(hints[field.name])} | {_meaning(kind, field.name)} |")
    return "\n".join(rows) + "\n"


def _meaning(kind: type[msgspec.Struct], name: str) -> str:
    is_metric = name == "precision" and get_type_hints(kind)[name] is float
    return MEANINGS["precision_metric" if is_metric else name]


def _type_text(hint: Any) -> str:
    names = {float: "number", int: "whole number", str: "text", bool: "true or false", types.NoneType: "null"}
    if hint in names:
        return names[hint]
    if isinstance(hint, types.UnionType):
        return " or ".join(_type_text(part) for part in get_args(hint))
    if get_origin(hint) is list:
        return f"list of {_type_text(get_args(hint)[0])}"
    return "object"


if __name__ == "__main__":
    print(document(), end="")
