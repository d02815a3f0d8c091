"""Rules for the stages in `then` that the type of one field cannot express, and the syntax of their shell lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from hpc_yolo.core.errors import SpecError
from hpc_yolo.core.units import is_whole_memory, parse_limit_s, parse_mem_bytes
from hpc_yolo.spec.problems import Finding
from hpc_yolo.spec.shell import DIRECTIVE, syntax_problem
from hpc_yolo.spec.stages import OWN_JOB, STEPS, Stage, StageRequest


def stage_findings(stages: Sequence[Stage]) -> Iterator[Finding]:
    """Yield what is wrong with the stages of a spec."""
    for index, stage in enumerate(stages):
        path = f"then[{index}]"
        if len(stage.kinds) != 1:
            message = f"has {', '.join(stage.kinds)}" if stage.kinds else "has no step"
            allowed = f"one of {', '.join(STEPS)} in a stage; without options: report: {{}}"
            yield Finding(path, message, allowed, (f"{path}.*",))
        yield from _step(path, stage)
        if stage.cluster is not None:
            if not stage.has_own_job:
                message = "is the request of a job of its own"
                yield Finding(f"{path}.cluster", message, f"in: {OWN_JOB}, or leave it out")
            yield from request_findings(f"{path}.cluster", stage.cluster)


def require_shell_stages(stages: Sequence[Stage]) -> None:
    """Refuse shell lines that bash cannot read.

    Raises:
        SpecError: with the stage, the number of the line and the message of bash.
    """
    for index, stage in enumerate(stages):
        if stage.shell is not None and (problem := syntax_problem(stage.shell.split("\n"))):
            raise SpecError(f"then[{index}].shell: {problem}", hint="bash -n checks shell lines in a file")


def _step(path: str, stage: Stage) -> Iterator[Finding]:
    if stage.export is not None and not stage.export.include:
        yield Finding(f"{path}.export.include", "is empty", "onnx, torchscript or both")
    if stage.export is not None and stage.export.nms and set(stage.export.include) != {"onnx"}:
        yield Finding(f"{path}.export.nms", "is for onnx", "include: [onnx]", (f"{path}.export.include",))
    if stage.predict is not None and not all(stage.predict.sources or [""]):
        yield Finding(f"{path}.predict.source", "is empty", "images or videos")
    for kind in ("val", "predict", "export"):
        step = getattr(stage, kind)
        if step is not None and not step.weights:
            yield Finding(f"{path}.{kind}.weights", "is empty", "best, last or a file of weights")
        if step is not None and getattr(step, "save_conf", False) and not step.save_txt:
            yield Finding(f"{path}.{kind}.save_conf", "adds a column to the files of save_txt", "save_txt: true too")
    if stage.shell is not None:
        if not stage.shell.strip():
            yield Finding(f"{path}.shell", "is empty", "a line of bash")
        if directive := next((line for line in stage.shell.split("\n") if DIRECTIVE.match(line)), None):
            message = f"is an option of sbatch, not a shell line: {directive.strip()}"
            yield Finding(f"{path}.shell", message, f"{path}.cluster")


def request_findings(path: str, request: StageRequest) -> Iterator[Finding]:
    """Yield what is wrong with the request of a small job, which the field `path` has."""
    checks: tuple[tuple[str, Callable[[str], object], str], ...] = (
        ("time", parse_limit_s, "minutes, hh:mm:ss, d-hh:mm:ss or UNLIMITED"),
        ("mem", parse_mem_bytes, "a whole number with K, M, G or T; 0 for all of a node's"),
    )
    for field, parse, allowed in checks:
        text = getattr(request, field)
        if text is None or (field == "mem" and is_whole_memory(text)):
            continue
        try:
            parse(text)
        except ValueError as error:
            yield Finding(f"{path}.{field}", str(error), allowed)
    if request.gpu_type is not None and request.gpus_per_node == 0:
        yield Finding(f"{path}.gpu_type", "needs GPUs, and gpus_per_node is 0", "null, or gpus_per_node of at least 1")
