"""Records of benchmarks: the seconds of each round, beside those of reference work that ran in the same rounds.

A machine that is busy or slow changes work and reference alike, so ratios are compared, not seconds. The reference is
timed twice in each round: the difference between the two is the noise floor, below which no ratio says anything.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from hpc_yolo.core.errors import DataError
from hpc_yolo.core.files import write_atomic

FORMAT = "hpc-yolo benchmarks 1"
LEAST_S, MOST_S = 1e-9, 1e9  # of a round: a time of zero has no ratio, and sums of times stay finite

Seconds = Annotated[list[Annotated[float, Meta(ge=LEAST_S, le=MOST_S)]], Meta(min_length=1)]


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Time of one piece of work in each round.

    Attributes:
        name: of the work.
        amount, unit: what it does in a round, such as 64 images.
        seconds: of each round.
    """

    name: str
    amount: Annotated[float, Meta(gt=0)]
    unit: str
    seconds: Seconds

    @property
    def median_s(self) -> float:
        """Median time of a round."""
        return statistics.median(self.seconds)


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """Timings of one benchmark.

    Attributes:
        bench: its name, and what it was run with.
        clock: cpu (time of the processor, of child processes too) or wall.
        reference: the work that the timings are compared with, which ran first and last in each round.
        reference_s, again_s: seconds of the first and of the second run of the reference in each round.
    """

    bench: str
    clock: str
    reference: str
    reference_s: Seconds
    again_s: Seconds
    timings: list[Timing]

    def __post_init__(self) -> None:
        """Check that everything was timed in each round; a ValueError otherwise."""
        rounds = {len(seconds) for seconds in (self.again_s, *(timing.seconds for timing in self.timings))}
        if rounds != {len(self.reference_s)}:
            raise ValueError(f"{self.bench}: the lists of seconds must have one length, that of the rounds")

    @property
    def noise(self) -> float:
        """Noise floor: median difference between the two runs of the reference in a round, as a fraction."""
        pairs = zip(self.reference_s, self.again_s, strict=True)
        return statistics.median(abs(first - again) / min(first, again) for first, again in pairs)

    def ratios(self, timing: Timing) -> list[float]:
        """Return the time of `timing` over that of the reference in each round; less is faster."""
        rounds = zip(timing.seconds, self.reference_s, self.again_s, strict=True)
        return [2 * seconds / (first + again) for seconds, first, again in rounds]


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured on. `device`: name of the GPU; "" without one."""

    cpu: str
    cpus: int
    device: str
    python: str
    torch: str
    opencv: str


class BenchRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All results of one call of the benchmarks.

    Attributes:
        format: of the file.
        commit: of the measured source, with + where it had changes; "" outside a repository.
        version: of the package.
        time: of the measurement, seconds since 1970.
        is_quick: measured with few rounds and small work.
    """

    format: str = FORMAT
    commit: str
    version: str
    time: float
    is_quick: bool
    machine: Machine
    results: list[BenchResult]


def middle_half(values: Sequence[float]) -> tuple[float, float]:
    """Return the first and the third quartile of `values`."""
    if len(values) == 1:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def spread(values: Sequence[float]) -> float:
    """Return half the distance of the quartiles of `values`, as a fraction of their median."""
    low, high = middle_half(values)
    return (high - low) / 2 / statistics.median(values)


def require_writable(directory: Path) -> None:
    """Create `directory` if it is missing, and check that `write_record` can write into it.

    Raises:
        DataError: it cannot.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise DataError(f"{directory}: cannot be written: {error.strerror}", hint="--save another one") from error


def write_record(directory: Path, record: BenchRecord) -> Path:
    """Write `record` into `directory` and return its path, named after its time and commit.

    Raises:
        OSError: the directory is not writable.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{record.time:.0f}-{record.commit.replace('+', '-changed') or record.version}.json"
    write_atomic(path, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    return path


def read_record(path: Path) -> BenchRecord:
    """Return the record in the file `path`.

    Raises:
        DataError: it cannot be read, or is no record of benchmarks.
    """
    hint = "hpc-yolo bench all --save DIRECTORY writes one"
    try:
        record = msgspec.json.decode(path.read_bytes(), type=BenchRecord)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}", hint=hint) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}: is no record of benchmarks: {error}", hint=hint) from error
    if record.format != FORMAT:
        raise DataError(f"{path}: is of the form {record.format!r}; this version reads {FORMAT!r}", hint=hint)
    return record


def read_records(directory: Path) -> list[BenchRecord]:
    """Return the records in `directory`, oldest first; other files are skipped.

    Raises:
        DataError: there is none.
    """
    found = []
    for path in sorted(directory.glob("*.json")):
        try:
            found.append(read_record(path))
        except DataError:
            continue
    if not found:
        hint = f"hpc-yolo bench all --save {directory} writes one"
        raise DataError(f"{directory}: holds no record of benchmarks", hint=hint)
    return sorted(found, key=lambda record: record.time)
