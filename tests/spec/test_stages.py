"""The list `then`: its mistakes with their locations, its names, and that a resolved spec is read as the same."""

import re
from pathlib import Path

import pytest

from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec.load import dump_spec, load_resolved_spec
from hpc_yolo.spec.stage_rules import require_shell_stages
from hpc_yolo.spec.stages import ExportStage, PredictStage, ReportStage, Stage, StageRequest, ValStage, named_stages

OWN = "in: job_of_its_own"
MISTAKES = [
    ("val: {split: tset}", "then[0].val.split: 'tset' is not allowed", "tset", "one of val, test, train"),
    ("val: {wieghts: best}", "then[0].val.wieghts: unknown field", "wieghts", "weights is the nearest"),
    ("vall: {}", "then[0].vall: unknown field", "vall", "val is the nearest"),
    ("export: {include: [onnx, tflite]}", "then[0].export.include[1]: 'tflite' is not", "tflite", "one of onnx, torch"),
    ("export: {include: []}", "then[0].export.include: is empty", "[]", "onnx, torchscript or both"),
    ("export: {nms: true}", "then[0].export.nms: is for onnx", "true", "include: [onnx]"),
    ("predict: {}", "then[0].predict.source: is missing", "{}", "text or a list of texts"),
    ("predict: {source: []}", "then[0].predict.source: is empty", "[]", "images or videos"),
    ("predict: {source: a, conf_thres: 2}", "then[0].predict.conf_thres: '2' is not allowed", "2", "at most 1.0"),
    ("val: {weights: ''}", "then[0].val.weights: is empty", "''", "best, last or a file of weights"),
    ("val: {save_conf: true}", "then[0].val.save_conf: adds a column", "true", "save_txt: true too"),
    ("report:", "then[0]: has no step", "report:", "report: {}"),
    ("when: always", "then[0]: has no step", "when", "one of val, predict, export, report, shell"),
    ("{val: {}, shell: ls}", "then[0]: has val, shell", "{val", "one of val, predict, export, report, shell"),
    ("{report: {}, when: never}", "then[0].when: 'never' is not allowed", "never", "one of success, failure, always"),
    ("{report: {}, in: node}", "then[0].in: 'node' is not allowed", "node", "one of job, job_of_its_own"),
    ("report", "then[0]: must hold fields", "report", "val, predict, export, report, shell, when, in, cluster"),
    ("shell: ' '", "then[0].shell: is empty", "' '", "a line of bash"),
    ('shell: "ls\\n#SBATCH --mem=0"', "then[0].shell: is an option of sbatch", '"ls', "then[0].cluster"),
    ('shell: "ls\\a"', "then[0].shell: control characters", '"ls', "printable"),
    ("{report: {}, cluster: {time: 5}}", "then[0].cluster: is the request of a job", "{time", f"{OWN}, or leave"),
    (f"{{report: {{}}, {OWN}, cluster: {{time: soon}}}}", "then[0].cluster.time: 'soon' is not a time", "soon", "mm"),
    (f"{{report: {{}}, {OWN}, cluster: {{mem: 4x}}}}", "then[0].cluster.mem: '4x' is not an amount", "4x", "0 for"),
    (
        f"{{report: {{}}, {OWN}, cluster: {{gpu_type: a100, gpus_per_node: 0}}}}",
        "then[0].cluster.gpu_type: needs GPUs",
        "a100",
        "gpus_per_node of at least 1",
    ),
]


@pytest.mark.parametrize(("stage", "message", "under", "allowed"), MISTAKES, ids=[row[0] for row in MISTAKES])
def test_mistake_is_reported_once_with_location_and_allowed_values(spec_file, stage, message, under, allowed):
    line = f"  - {stage}"
    problem = spec_file.add(f"then:\n{line}\n  - report: {{}}\n").only_problem()
    column = (line.rindex(under) if under != "report:" else line.index(under)) + 1
    assert problem.startswith(f"{spec_file.path}:5:{column}: {message}"), problem
    assert allowed in problem.splitlines()[-1]


def test_mistakes_of_several_stages_are_reported_at_once(spec_file):
    found = spec_file.add(
        "then:\n  - val: {split: x}\n  - export: {}\n  - shell:\n  - {report: {}, when: y}\n"
    ).problems()
    assert [problem.split(": ")[1] for problem in found] == ["then[0].val.split", "then[3].when", "then[2]"]


@pytest.mark.parametrize(
    ("written", "expected"), [("", []), ("[]", []), ("[{report: {}}]", [Stage(report=ReportStage())])]
)
def test_list_of_stages_may_be_empty_and_be_set_as_an_option(spec_file, written, expected):
    assert spec_file.add(f"then: {written}\n").load().then == expected
    assert spec_file.add("").load(f"then={written or '[]'}").then == expected


def test_group_instead_of_list_is_refused(spec_file):
    assert "then: a group of fields is not allowed here" in spec_file.add("then: {val: {}}\n").only_problem()


def test_paths_become_absolute_and_the_resolved_spec_is_read_as_the_same(spec_file, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "other.pt").touch()
    spec = spec_file.add(
        "then:\n"
        "  - {val: {split: test, weights: last}, when: always, in: job_of_its_own, cluster: {time: '10', mem: 4G}}\n"
        "  - predict: {source: [images, 'rtsp://a/b', '0'], weights: other.pt, classes: a}\n"
        "  - export: {include: [onnx, torchscript]}\n"
        "  - report: {}\n"
        '  - {shell: "cp a b\\nls", when: failure}\n'
    ).load()
    assert spec.then == [
        Stage(
            val=ValStage(split="test", weights="last"),
            when="always",
            where="job_of_its_own",
            cluster=StageRequest(time="10", mem="4G"),
        ),
        Stage(
            predict=PredictStage(
                source=[str(tmp_path / "images"), "rtsp://a/b", "0"], weights=str(tmp_path / "other.pt"), classes="a"
            )
        ),
        Stage(export=ExportStage(include=["onnx", "torchscript"])),
        Stage(report=ReportStage()),
        Stage(shell="cp a b\nls", when="failure"),
    ]
    dumped = tmp_path / "resolved.yaml"
    dumped.write_text(dump_spec(spec))
    assert load_resolved_spec(dumped) == spec


def test_example_of_the_documentation_is_valid(spec_file):
    page = Path(__file__).parents[2] / "docs" / "stages.md"
    (example,) = re.findall(r"```yaml\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert list(named_stages(spec_file.add(example).load().then)) == ["val", "export", "report", "predict", "shell"]


def test_names_are_steps_with_a_number_from_the_second_of_a_kind():
    stages = [Stage(val=ValStage()), Stage(shell="a"), Stage(val=ValStage(split="test")), Stage(shell="b")]
    assert list(named_stages(stages)) == ["val", "shell", "val-2", "shell-2"]


@pytest.mark.parametrize(
    ("changed", "is_same"),
    [
        (Stage(val=ValStage(), when="always"), True),
        (Stage(val=ValStage(), where="job_of_its_own"), True),
        (Stage(val=ValStage(split="test")), False),
        (Stage(shell="a"), False),
    ],
)
def test_step_has_the_options_of_the_command_alone(changed, is_same):
    assert (Stage(val=ValStage()).step == changed.step) == is_same


@pytest.mark.parametrize(("lines", "problem"), [("cp a b; [ -d c ] && ls", None), ("ls\nif true; then", "line 3: ")])
def test_shell_lines_that_bash_cannot_read_are_refused(lines, problem):
    stages = [Stage(report=ReportStage()), Stage(shell=lines)]
    if problem is None:
        require_shell_stages(stages)
        return
    with pytest.raises(SpecError, match=rf"then\[1\]\.shell: {problem}"):
        require_shell_stages(stages)
