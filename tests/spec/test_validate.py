"""Rules across fields: errors have the location of the wrong value."""

import pytest

from hpc_yolo.spec import srun_options, validate
from hpc_yolo.spec.load import Override, check_spec, known_fields
from hpc_yolo.spec.sbatch_options import OWN_SBATCH_OPTIONS, REFUSED

GPU_RULES = [
    ("{nodes: 2, gpus_per_node: 4, mem: 4G, mem_per_cpu: 1G}", "cluster.mem_per_cpu: excludes mem", "one of the three"),
    ("{mem_per_cpu: 1G, mem_per_gpu: 1G}", "cluster.mem_per_gpu: excludes mem_per_cpu", "one of the three"),
    ("{mem: 1G, mem_per_cpu: 1G, mem_per_gpu: 1G}", "mem_per_cpu: excludes mem and mem_per_gpu", "one of the three"),
    ("{gpus_per_node: 0, mem_per_gpu: 1G}", "cluster.mem_per_gpu: needs GPUs", "mem or mem_per_cpu"),
    ("{gpus_per_node: 0, gpu_type: a100}", "cluster.gpu_type: needs GPUs", "null, or gpus_per_node of at least 1"),
    ("{gpu_request: none, gpu_type: a100}", "gpu_type: needs a request of GPUs", "null, or another gpu_request"),
    ("{gpu_request: none, mem_per_gpu: 1G}", "mem_per_gpu: needs a request of GPUs", "null, or another gpu_request"),
    ("{gres: 'gpu:4'}", "cluster.gres: GPUs have fields of their own", "cluster.gpus_per_node and cluster.gpu_type"),
    ("{gres: [nvme:50, gpu]}", "cluster.gres: GPUs have fields of their own", "cluster.gpus_per_node"),
    ("{prefix: [--pty, bash]}", "cluster.prefix: '--pty' is not a command", "options of srun are cluster.srun"),
    ("{prefix: ['']}", "cluster.prefix: '' is not a command", "such as [numactl, --localalloc]"),
    ("{gres: 'nvme 50'}", "cluster.gres: 'nvme 50' is not a generic resource", "such as nvme:50"),
    ("{gres: [--wrap=x]}", "cluster.gres: '--wrap=x' is not a generic resource", "such as nvme:50"),
    ("{gpus_per_node: 4, tasks_per_node: 2}", "tasks_per_node: 2 tasks on 4 GPUs", "4, or leave it out"),
    ("{tasks_per_node: 4, gpus_per_node: 1}", "tasks_per_node: 4 tasks on 1 GPU;", "1, or leave it out"),
    (
        "{time: 00:01:00, signal_before_s: 60}",
        "signal_before_s: 60 s is not before the end of a job of 60 s",
        "under 60",
    ),
    (
        "{time: 1, signal_before_s: 61}",
        "signal_before_s: 61 s is not before the end of a job of 60 s",
        "under 60, or auto",
    ),
]
FORMATS = [
    *(
        (f"{{time: {text}}}", "cluster.time: ", "minutes, hh:mm:ss")
        for text in (
            "soon",
            "1h",
            "-5",
            "-01",
            "unlimit",
            "none",
            "1:2:3:4",
            "1-",
            "'90 minutes'",
            "1.5",
            "1e3",
            "٩٠",
            "9" * 5000,
        )
    ),
    *(
        (f"{{{field}: {text}}}", f"cluster.{field}: ", "a whole number with K, M, G or T")
        for field in ("mem", "mem_per_cpu", "mem_per_gpu")
        for text in ("much", "1.5G", "-0", "-1G", "4 G", "4GiB", "400B", "1P", "٤G", "9" * 5000 + "G")
    ),
]
NAMES = [
    ("{sbatch: {Comment: x}}", "cluster.sbatch.Comment: not the long name", "such as comment"),
    ("{sbatch: {--comment: x}}", "cluster.sbatch.--comment: not the long name", "such as comment"),
    ("{sbatch: {mail_type: x}}", "cluster.sbatch.mail_type: not the long name", "mail-type"),
    ("{sbatch: {'comment=x --wrap': x}}", "not the long name", "such as comment"),
    ("{sbatch: {'': x}}", "not the long name", "such as comment"),
    ("{env: {1A: x}}", "cluster.env.1A: not the name of a variable", "letters, digits and _"),
    ("{env: {A.B: x}}", "cluster.env.A.B: not the name of a variable", "letters, digits and _"),
    ("{env: {'A B': x}}", "cluster.env.A B: not the name of a variable", "letters, digits and _"),
    ("{env: {'A;reboot': x}}", "not the name of a variable", "letters, digits and _"),
    ("{env: {É: x}}", "not the name of a variable", "letters, digits and _"),
    ("{env: {'': x}}", "not the name of a variable", "letters, digits and _"),
]


@pytest.mark.parametrize(("cluster", "message", "allowed"), [*GPU_RULES, *FORMATS, *NAMES])
def test_cluster_value_that_slurm_refuses_is_refused(spec_file, cluster, message, allowed):
    problem = spec_file.add(f"cluster: {cluster}\n").only_problem()
    assert message in problem
    assert allowed in problem.partition("allowed: ")[2]


@pytest.mark.parametrize(
    "cluster",
    [
        *(f"{{time: {text}}}" for text in ("UNLIMITED", "unlimited", "INFINITE", "Infinite", "-1", "0", "00:00:00")),
        "{time: UNLIMITED, signal_before_s: 65535}",
        *(f"{{{field}: {text}}}" for field in ("mem", "mem_per_cpu", "mem_per_gpu") for text in ("0", "0G", "'0M'")),
        "{partition: 'a,b'}",
        "{partition: [a, b]}",
        "{exclude: 'n1,n[3-8]'}",
        "{exclude: n1}",
        "{sbatch: {mail-type: [BEGIN, END], nodelist: [n1, n2]}}",
        "{sbatch: {export: NONE, hold: true, begin: now+1hour, chdir: /tmp, input: /dev/null, verbose: true}}",
        "{sbatch: {parsable: false, wait: null}}",
        "{sbatch: {clusters: far}}",
        "{sbatch: {an-option-of-2030: x}}",
        "{sbatch: {mail-type: 'END,time_limit_90', hint: nomultithread, switches: 1@01:00:00, tmp: 50G}}",
        *(f"{{sbatch: {{exclusive: {value}}}}}" for value in ("true", "user", "mcs", "false")),
        "{gpu_request: none, gres: 'nvme:50, craynetwork:0'}",
        "{srun: {cpu-bind: 'mask_cpu:0xff,0xff00', mpi: pmi2, gres-flags: allow-task-sharing, slurmd-debug: null}}",
        "{prefix: [numactl, --localalloc], login_shell: true}",
    ],
)
def test_cluster_value_that_sbatch_accepts_is_accepted(spec_file, cluster):
    spec_file.add(f"cluster: {cluster}\n").load()


@pytest.mark.parametrize(("option", "field"), OWN_SBATCH_OPTIONS.items())
def test_sbatch_option_with_own_field_is_refused(spec_file, option, field):
    problem = spec_file.add(f"cluster:\n  sbatch:\n    {option}: x\n").only_problem()
    assert problem.startswith(
        f"{spec_file.path}:6:{len(option) + 7}: cluster.sbatch.{option}: has a field of its own\n"
    )
    assert problem.endswith(f"allowed: {field}")


@pytest.mark.parametrize("option", REFUSED)
def test_unsafe_sbatch_option_error_has_reason(spec_file, option):
    reason, alternative = REFUSED[option]
    problem = spec_file.add(f"cluster:\n  sbatch:\n    {option}: true\n").only_problem()
    assert f"cluster.sbatch.{option}: {reason}\n" in problem
    assert problem.endswith(f"allowed: {alternative}")


@pytest.mark.parametrize(
    ("option", "value", "message", "allowed"),
    [
        ("p", "high", "short for partition", "cluster.partition"),
        ("J", "x", "short for job-name", "name"),
        ("M", "far", "short for clusters", "cluster.sbatch.clusters"),
        ("W", "true", "short for wait", "wait"),
        ("partitio", "high", "short for partition", "cluster.partition"),
        ("parsab", "true", "short for parsable", "parsable"),
        ("mail-u", "me", "short for mail-user", "cluster.sbatch.mail-user"),
        ("clusters", "a,b", "a run has its jobs on one cluster", "the name of one cluster"),
        ("clusters", "all", "a run has its jobs on one cluster", "the name of one cluster"),
        ("clusters", "true", "a run has its jobs on one cluster", "the name of one cluster"),
        ("comment", "[a, b]", "a list is not allowed here", "text"),
        ("mail-type", "ENDED", "has no value 'ENDED'", "BEGIN, END, FAIL"),
        ("mail-type", "[END, FALI]", "has no value 'FALI'", "BEGIN, END, FAIL"),
        ("mail-type", "true", "has no value 'True'", "BEGIN, END, FAIL"),
        ("exclusive", "gpu", "has no value 'gpu'", "true, user, mcs or topo"),
        ("hint", "hyperthread", "has no value 'hyperthread'", "compute_bound"),
        ("switches", "one", "has no value 'one'", "a number of switches"),
        ("tmp", "50 GB", "has no value '50 GB'", "a whole number with K, M, G or T"),
    ],
)
def test_abbreviated_or_ambiguous_sbatch_option_is_refused(spec_file, option, value, message, allowed):
    problem = spec_file.add(f"cluster:\n  sbatch:\n    {option}: {value}\n").only_problem()
    assert problem.startswith(f"{spec_file.path}:6:{len(option) + 7}: cluster.sbatch.{option}: {message}\n")
    assert problem.partition("allowed: ")[2].startswith(allowed)


def test_hold_with_chain_is_refused(spec_file):
    problem = spec_file.add("cluster:\n  requeue: chain\n  sbatch: {hold: true}\n").only_problem()
    assert "cluster.sbatch.hold: holds every job of the chain" in problem


@pytest.mark.parametrize(
    "line", ["#SBATCH --mem=0", "  #SBATCH --array=1-4", "#SBATCH", "#PBS -l nodes=2", "#BSUB -n 4"]
)
@pytest.mark.parametrize("template", ["setup: ['true', '{}']", "setup: |\n    true\n    {}\n    true", "setup: '{}'"])
def test_sbatch_directives_in_setup_are_refused(spec_file, template, line):
    problem = spec_file.add(f"cluster:\n  {template.format(line)}\n").only_problem()
    number = 1 if template == "setup: '{}'" else 2
    assert f"cluster.setup: line {number} is an option of sbatch, not a shell line: {line.strip()}" in problem


@pytest.mark.parametrize(
    ("directive", "allowed"),
    [
        ("#SBATCH --mem=0", "cluster.mem"),
        ("#SBATCH   -p gpu", "cluster.partition"),
        ("#SBATCH -t2:00:00", "cluster.time"),
        ("#SBATCH --cpus-per-gpu 8", "cluster.cpus_per_task"),
        ("#SBATCH --mail-type=END", "cluster.sbatch.mail-type"),
        ("#SBATCH --exclusive", "cluster.sbatch.exclusive"),
        ("#SBATCH --wait", "hpc-yolo submit --wait"),
        ("#SBATCH", "the field of that option, or cluster.sbatch"),
        ("#PBS -p 5", "the field of that option, or cluster.sbatch"),
    ],
)
def test_message_for_a_directive_in_setup_names_the_field_of_its_option(spec_file, directive, allowed):
    problem = spec_file.add(f"cluster: {{setup: ['{directive}']}}\n").only_problem()
    assert problem.endswith(f"allowed: {allowed}")


@pytest.mark.parametrize("line", ["# SBATCH is a program", "echo '#SBATCH'", "##SBATCH --mem=0"])
def test_comments_in_setup_are_accepted(spec_file, line):
    assert spec_file.add(f"cluster:\n  setup: |\n    {line}\n").load().cluster.setup_lines == [line]


@pytest.mark.parametrize("python", ["''", "$HOME/venv/bin/python", "python -u", "' '"])
def test_python_other_than_path_or_name_is_refused(spec_file, python):
    assert "cluster.python: " in spec_file.add(f"cluster: {{python: {python}}}\n").only_problem()


def test_fields_named_for_sbatch_options_exist():
    assert set(OWN_SBATCH_OPTIONS.values()) <= set(known_fields().values())


@pytest.mark.parametrize(
    ("added", "batch", "nearest"),
    [
        ("cluster: {nodes: 2, gpus_per_node: 4}", 20, "16 or 24"),
        ("cluster: {nodes: 2, gpus_per_node: 4}", 7, "8"),
        ("cluster: {gpus_per_node: 0, tasks_per_node: 3}", 16, "15 or 18"),
    ],
)
def test_indivisible_batch_error_suggests_nearest_multiples(spec_file, added, batch, nearest):
    problem = spec_file.add(f"{added}\ntrain:\n  batch: {batch}\n").only_problem()
    assert problem.startswith(f"{spec_file.path}:6:10: train.batch: {batch} is not a multiple of the world size")
    assert problem.endswith(f"allowed: {nearest}")
    for multiple in nearest.split(" or "):
        assert spec_file.add(f"{added}\ntrain:\n  batch: {multiple}\n").load().train.batch == int(multiple)


def test_error_about_default_has_position_of_related_section(spec_file):
    problem = spec_file.add("cluster: {gpus_per_node: 3}\ntrain:\n  epochs: 1\n").only_problem()
    assert problem.startswith(f"{spec_file.path}:5:1: train.batch: 16 is not a multiple of the world size 3")
    problem = spec_file.add("cluster: {gpus_per_node: 3}\n").only_problem()
    assert problem.startswith(f"{spec_file.path}:1:1: train.batch: 16 is not a multiple of the world size 3")


def test_batch_of_0_is_refused(spec_file):
    assert "train.batch: a batch of no images" in spec_file.add("train: {batch: 0}\n").only_problem()


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("cluster: {gpus_per_node: 2}\ntrain: {batch: -1}\n", "train.batch: -1 measures the memory of one task"),
        ("train: {batch: -1, data_parallel: true, device: '0,1'}\n", "train.batch: -1 measures the memory of one GPU"),
        ("cluster: {gpus_per_node: 2}\ntrain: {image_weights: true}\n", "train.image_weights: needs one task"),
    ],
)
def test_option_for_one_task_or_gpu_is_refused_for_more(spec_file, added, message):
    assert message in spec_file.add(added).only_problem()


@pytest.mark.parametrize(
    ("cluster", "device", "message"),
    [
        ("{gpus_per_node: 2}", "0", "names 1 GPU for 2 tasks"),
        ("{gpus_per_node: 2}", "'0,1,2'", "names 3 GPUs for 2 tasks"),
        ("{nodes: 2, gpus_per_node: 2}", "'0,1'", "names GPUs of one machine, and there are 2 nodes"),
    ],
)
def test_device_list_that_does_not_match_tasks_is_refused(spec_file, cluster, device, message):
    problem = spec_file.add(f"cluster: {cluster}\ntrain: {{device: {device}}}\n").only_problem()
    assert f"train.device: {message}" in problem


@pytest.mark.parametrize(
    ("cluster", "device", "cause"),
    [("{gpus_per_node: 0}", "auto", "cluster.gpus_per_node is 0"), ("{}", "cpu", "train.device is cpu")],
)
def test_augmentation_on_a_gpu_is_refused_without_one(spec_file, cluster, device, cause):
    problem = spec_file.add(f"cluster: {cluster}\ntrain: {{device: {device}, augment_device: gpu}}\n").only_problem()
    assert f"train.augment_device: gpu needs GPUs, and {cause}" in problem


@pytest.mark.parametrize("device", ["auto", "cpu", "'0,1'"])
def test_device_that_matches_tasks_is_accepted(spec_file, device):
    assert spec_file.add(f"cluster: {{gpus_per_node: 2}}\ntrain: {{device: {device}}}\n").load().train.device in device


@pytest.mark.parametrize(
    ("model", "imgsz", "allowed"),
    [
        ("yolov5n", 100, "multiple of 32"),
        ("yolov5n6", 672, "such as 704"),
        ("yolov5s6", 32, "such as 64"),
        ("yolov5n6-af", 96, "128"),
    ],
)
def test_image_size_between_strides_is_refused(spec_file, model, imgsz, allowed):
    text = f"name: a\nmodel: {model}\ndata: d.yaml\ntrain: {{imgsz: {imgsz}}}\n"
    problem = spec_file.write(text).only_problem()
    assert f"{spec_file.path}:4:16: train.imgsz: " in problem
    assert allowed in problem


@pytest.mark.parametrize(("model", "imgsz"), [("yolov5n", 672), ("yolov5n6", 1280)])
def test_image_size_of_whole_strides_is_accepted(spec_file, model, imgsz):
    text = f"name: a\nmodel: {model}\ndata: d.yaml\ntrain: {{imgsz: {imgsz}}}\n"
    assert spec_file.write(text).load().train.imgsz == imgsz


@pytest.mark.parametrize(
    ("model", "nearest"),
    [("yolov5", "is the nearest"), ("yolov5nn", "yolov5n is the nearest"), ("resnet", "a YAML of layers")],
)
def test_unknown_model_error_lists_known_models(spec_file, model, nearest):
    problem = spec_file.write(f"name: a\nmodel: {model}\ndata: d.yaml\n").only_problem()
    assert f"{spec_file.path}:2:8: model: there is no model" in problem
    assert "yolov5n, yolov5n-af, yolov5n6" in problem and nearest in problem


def test_spec_without_model_requires_weights(spec_file):
    assert spec_file.write("name: a\ndata: d.yaml\nweights: yolov5s.pt\n").load().model == ""
    problem = spec_file.write("name: a\nmodel: ''\ndata: d.yaml\n").only_problem()
    assert f"{spec_file.path}:2:8: model: is missing, and there are no weights" in problem


@pytest.mark.parametrize("name", validate.model_names())
def test_models_of_package_are_accepted(spec_file, name):
    assert spec_file.write(f"name: a\nmodel: {name}\ndata: d.yaml\n").load().model == name


@pytest.mark.parametrize("name", ["-rf", ".hidden", "a/b", "..", "a b", "", "é", "a" * 101, "$(id)"])
def test_unsafe_run_name_is_refused(spec_file, name):
    problem = spec_file.write(f"name: '{name}'\nmodel: yolov5n\ndata: d.yaml\n").only_problem()
    assert f"{spec_file.path}:1:7: name: '{name}' is not allowed" in problem


def test_world_size_is_nodes_times_tasks(spec_file):
    assert spec_file.load().cluster.world_size == 1
    assert spec_file.add("cluster: {nodes: 2, gpus_per_node: 4}\n").load().cluster.world_size == 8
    assert spec_file.add("cluster: {nodes: 2, gpus_per_node: 0, tasks_per_node: 4}\n").load().cluster.world_size == 8


@pytest.mark.parametrize(
    ("option", "message", "allowed"),
    [
        *((name, "is set by the script of the job", instead) for name, instead in srun_options.SET_BY_SCRIPT.items()),
        ("ntasks", "tasks would not be the ranks of the job", "cluster.nodes, cluster.gpus_per_node"),
        ("multi-prog", "tasks would not be the ranks of the job", "cluster.tasks_per_node"),
        ("output", "the output of all tasks is read from the log of the job", "leave it out"),
        ("test-only", "srun would not start the tasks", "leave it out"),
        ("outpu", "short for output, which cannot be given", "leave it out"),
        ("unbuf", "short for unbuffered, which cannot be given", "leave it out"),
        ("n", "not the long name of an srun option", "such as cpu-bind or mpi"),
        ("--mpi", "not the long name of an srun option", "such as cpu-bind or mpi"),
        ("cpu_bind", "not the long name of an srun option", "such as cpu-bind or mpi"),
        ("mpi=x --pty", "not the long name of an srun option", "such as cpu-bind or mpi"),
    ],
)
def test_srun_option_that_changes_which_tasks_run_is_refused(spec_file, option, message, allowed):
    problem = spec_file.add(f"cluster:\n  srun:\n    {option}: x\n").only_problem()
    assert f"cluster.srun.{option}: {message}\n" in problem
    assert allowed in problem.partition("allowed: ")[2]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"train.image_weights": "true"}, "validate: image_weights draws images by the last evaluation"),
        ({"validate_cluster": "{time: soon}"}, "validate_cluster.time: "),
        ({"validate_cluster": "{mem: much}"}, "validate_cluster.mem: "),
        ({"validate_cluster": "{partitions: p}"}, "validate_cluster.partitions: unknown field"),
        ({"validate": "in_job", "validate_cluster": "{time: 5}"}, "validate_cluster: is the request of the jobs of"),
        ({"validate": "beside"}, "validate: 'beside' is not allowed"),
        ({"validate_cluster": "{partition: [a, b], time: 5, gpus_per_node: 0}"}, None),
    ],
    ids=str,
)
def test_evaluations_aside(fields, message):
    values = {"name": "a", "model": "yolov5n", "data": "d.yaml", "validate": "aside"} | fields
    _, problems = check_spec(None, [Override(field, text, field) for field, text in values.items()])
    assert [message in str(problem) for problem in problems] == ([] if message is None else [True])


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("stage: auto", None),
        ("stage: off", None),
        ("stage: $SLURM_TMPDIR/sets, size_limit: 100G", None),
        ("stage: ~/x, size_limit: 1t", None),
        ("stage: scratch", "data.stage: 'scratch' is not off, auto or an absolute path"),
        ("stage: Auto", "data.stage: 'Auto' is not off, auto or an absolute path"),
        ("size_limit: 1.5G", "data.size_limit: '1.5G' is not an amount of memory"),
        ("size_limit: 0", "data.size_limit: '0' is not an amount of memory"),
    ],
)
def test_staging(spec_file, section, message):
    text = f"name: a\nmodel: yolov5n\ndata: {{path: d.yaml, {section}}}\n"
    if message is None:
        spec = spec_file.write(text).load()
        assert f"stage: {spec.data.stage}" in section
    else:
        assert message in spec_file.write(text).only_problem()
