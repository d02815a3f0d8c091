"""`hpc-yolo bench`: benchmarks run, are saved, compared and drawn."""

from __future__ import annotations

import errno
import json
import os
import subprocess
from pathlib import Path

import msgspec
import pytest
from bench_records import record, result
from click.testing import CliRunner

from hpc_yolo.bench.records import read_records, write_record
from hpc_yolo.bench.run import BENCHMARKS
from hpc_yolo.checkpoint import saver
from hpc_yolo.cli import bench_output
from hpc_yolo.cli.main import cli
from hpc_yolo.cli.options import read_overrides
from hpc_yolo.core.errors import DataError, RunError
from hpc_yolo.data.synth import write_shapes_dataset
from hpc_yolo.launch.prepare import prepare_run
from hpc_yolo.runs.directory import RunDirectory
from hpc_yolo.spec.load import load_spec

SPEC = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
QUIET = [0.99, 1.0, 1.0, 1.0, 1.01]


def call(*arguments: object):
    return CliRunner().invoke(cli, ["bench", *map(str, arguments)])


@pytest.mark.parametrize("name", ["data", pytest.param("startup", marks=pytest.mark.soak)])
def test_benchmark_prints_its_works_and_saves_a_record(name, tmp_path):
    done = call(name, "--quick", "--rounds", 1, "--save", tmp_path)
    assert done.exit_code == 0, done.output
    assert "noise floor" in done.output
    (saved,) = read_records(tmp_path)
    assert saved.is_quick
    assert [timing.name for timing in saved.results[0].timings] == [
        line.strip()[:36].strip() for line in done.stdout.splitlines()[1:-1] if " of the reference" in line
    ]
    assert all(seconds > 0 for timing in saved.results[0].timings for seconds in timing.seconds)


def test_input_of_a_spec_is_measured_and_left_for_submit(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    data = write_shapes_dataset(tmp_path / "set", num_train=16, num_val=2, image_size=(64, 48))
    options = [SPEC, "--set", f"data={data}", "--set", f"output={tmp_path}", "--set", "train.imgsz=64"]
    done = call("data", *options, "--set", "cluster.executor=local")
    assert done.exit_code == 0, done.output
    assert "images/s from files" in done.output
    assert "train.cache auto, in memory" in done.output
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    options += ["--set", "cluster.executor=local", "--set", "cluster.gpus_per_node=2", "--json"]
    values = json.loads(call("data", *options).stdout)
    assert values["augment_device"] == "cpu", "this machine has no GPU"
    assert values["files_s"] > 0
    assert values["memory_s"] > 0
    assert (values["imgsz"], values["data"], values["is_in_memory"]) == (64, str(data), True)
    assert 18 * 64 * 48 * 3 <= values["decoded_bytes"] < 300_000
    assert len((tmp_path / "hpc-yolo" / "input_rates.jsonl").read_text().splitlines()) == 2


def test_input_is_measured_beside_a_run_with_another_spec(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    data = write_shapes_dataset(tmp_path / "set", num_train=4, num_val=2, image_size=(64, 48))
    options = ["--set", f"data={data}", "--set", f"output={tmp_path}", "--set", "cluster.executor=local"]
    spec = load_spec(SPEC, read_overrides((f"data={data}", f"output={tmp_path}"), {}))
    prepare_run(RunDirectory(tmp_path / spec.name), spec)
    done = call("data", SPEC, *options, "--set", "train.imgsz=96")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    "arguments", [["--set", "train.imgsz=64"], [SPEC, "--quick"]], ids=["a change without a spec", "quick with one"]
)
def test_options_of_the_other_form_are_refused(arguments):
    assert call("data", *arguments).exit_code == 2


def test_every_benchmark_is_a_command():
    listed = call("--help").output
    assert all(sentence[:20] in listed for *_, sentence in BENCHMARKS.values())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "status: [Errno 28] No space left on device"),
        (DataError("a set is missing"), "status: a set is missing"),
        (subprocess.CalledProcessError(1, "x", stderr=b"a\nerror: b\n"), "status: error: b"),
    ],
    ids=["system", "own", "command"],
)
def test_benchmark_that_cannot_run_is_named_after_the_others(tmp_path, monkeypatch, error, message):
    def run(name, _rounds):
        if name == "status":
            raise error
        return [result(QUIET, bench=name)]

    monkeypatch.setattr(bench_output, "run_benchmark", run)
    done = call("all", "--quick", "--save", tmp_path)
    assert isinstance(done.exception, RunError)
    assert str(done.exception) == f"not measured: {message}"
    (saved,) = read_records(tmp_path)
    assert [one.bench for one in saved.results] == [name for name in BENCHMARKS if name != "status"]


def test_json_is_the_record(tmp_path):
    values = json.loads(call("status", "--quick", "--rounds", 1, "--json").stdout)
    assert values["results"][0]["timings"][1]["name"] == "refresh"
    assert values["machine"]["cpus"] > 0


@pytest.mark.parametrize(("factor", "exit_code"), [(1.0, 0), (1.5, 1), (0.5, 0)], ids=["same", "slower", "faster"])
def test_compare_exits_with_1_on_a_regression_alone(tmp_path, factor, exit_code):
    before = write_record(tmp_path, record(result(QUIET), time=1))
    after = write_record(tmp_path, record(result([factor * one for one in QUIET]), time=2))
    done = call("compare", before, after)
    assert done.exit_code == exit_code
    assert ("slower" in done.output) == (factor > 1)
    (row,) = json.loads(call("compare", before, after, "--json").stdout)
    assert row["change"] == pytest.approx(factor - 1)


def test_compare_takes_commits_and_lists_known_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    directory = tmp_path / "benchmarks" / "results"
    write_record(directory, record(result(QUIET), time=1, commit="abc123"))
    write_record(directory, record(result(QUIET), time=2, commit="def456"))
    assert call("compare", "abc", "def4").exit_code == 0
    failed = call("compare", "abc", "fff")
    assert isinstance(failed.exception, DataError)
    assert "abc123, def456" in str(failed.exception)


def test_compare_without_common_timings_is_an_error(tmp_path):
    before = write_record(tmp_path, record(result(QUIET), time=1))
    after = write_record(tmp_path, record(result(QUIET, bench="val"), time=2))
    assert isinstance(call("compare", before, after).exception, DataError)


def test_chart_draws_the_records_of_a_directory(tmp_path):
    for time in (1, 2):
        write_record(tmp_path, record(result(QUIET), time=time, commit=f"c{time}"))
    done = call("chart", tmp_path, "--output", tmp_path / "out.png")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert "2 records, c1 to c2" in done.output


def test_chart_replaces_no_file_that_is_not_regular(tmp_path):
    write_record(tmp_path, record(result(QUIET)))
    output = tmp_path / "pipe"
    os.mkfifo(output)
    failed = call("chart", tmp_path, "--output", output)
    assert isinstance(failed.exception, DataError)
    assert "is no regular file" in str(failed.exception)
    assert output.is_fifo()


@pytest.mark.parametrize("drawn", [record(), record(msgspec.structs.replace(result(QUIET), timings=[]))])
def test_chart_without_timings_says_that_there_is_nothing_to_draw(tmp_path, drawn):
    write_record(tmp_path, drawn)
    failed = call("chart", tmp_path, "--output", tmp_path / "out.png")
    assert isinstance(failed.exception, DataError)
    assert "nothing to draw" in str(failed.exception)


def test_directory_that_is_not_writable_is_refused_before_anything_is_measured(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(bench_output, "run_benchmark", lambda *_: pytest.fail("measured"))
    failed = call("step", "--save", tmp_path / "file" / "records")
    assert isinstance(failed.exception, DataError)
    assert str(failed.exception).startswith(f"{tmp_path / 'file' / 'records'}: cannot be written: ")


def test_checkpoint_that_cannot_be_written_is_an_error_without_a_record(tmp_path, monkeypatch):
    def write(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saver, "write_file", write)
    failed = call("checkpoint", "--quick", "--rounds", 1, "--save", tmp_path)
    assert isinstance(failed.exception, RunError)
    assert "a checkpoint cannot be written there" in str(failed.exception)
    assert list(tmp_path.iterdir()) == []
