"""Keys, tokens and passwords in a spec are refused where they stand; what only looks like one is not.

The keys here are made up, and put together from parts so that no scanner of repositories takes them for real ones.
"""

from __future__ import annotations

import pytest

from hpc_yolo.core.errors import SpecError
from hpc_yolo.spec.credentials import find_credentials
from hpc_yolo.spec.load import Override, load_resolved_spec

HEX = "3f786850e387550fdab836ed7e6dc881de23001b"
MIXED = "aB3" * 12
HUGGING_FACE = "hf_" + "aQ7z" * 9
WEBHOOK = "https://hooks.slack.com/" + "services/T00000000/B00000000/" + "Xy7Q" * 6

PRIVATE_KEY = "-----BEGIN OPENSSH " + "PRIVATE KEY-----\nb3BlbnNz\nAAAA==\n-----END OPENSSH PRIVATE KEY-----"

# (name, value, the secret in it: None for all of the value)
KEYS = [
    ("WANDB_API_KEY", HEX, None),
    ("MY_RUN", f"wandb login {HEX}", HEX),
    ("", f"module load cuda\nwandb login --relogin {HEX}\n", HEX),
    ("", f"export WANDB_API_KEY={HEX}", HEX),
    ("comment", "wandb_v1_" + MIXED, None),
    ("HF_TOKEN", HUGGING_FACE, None),
    ("NOTE", f"see {HUGGING_FACE}", HUGGING_FACE),
    ("", "git clone https://me:" + "ghp_" + MIXED + "@github.com/a/b", "ghp_" + MIXED),
    ("", "github_pat_" + MIXED, None),
    ("x", "glpat-" + MIXED, None),
    ("AWS_ACCESS_KEY_ID", "AKIA" + "ABCD2345" * 2, None),
    ("AWS_SECRET_ACCESS_KEY", "wJalr/K7MDENG+bPxRfiCY" * 2, None),
    ("BOT", "xoxb-" + "123456789012-" + MIXED, None),
    ("x", "sk-" + "proj-" + MIXED, None),
    ("image", "docker://user:hunter2@registry.example.org/a/b", "hunter2"),
    ("weights", "https://example.org/a.pt?token=s3cr3tvalue", "s3cr3tvalue"),
    ("password", "hunter2", None),
    ("MLFLOW_TRACKING_PASSWORD", "correct horse battery staple", None),
    ("apiKey", "abcd-1234", None),
    ("PGPASSWORD", "letmein", None),
    ("comment", "password=letmein", "letmein"),
    ("", "mlflow --token abcd1234efgh run", "abcd1234efgh"),
    ("", "curl -H 'Authorization: Bearer abcdef123456' https://example.org", "abcdef123456"),
    ("", "curl -s -u me:letmein https://example.org", "letmein"),
    ("", "sshpass -p letmein ssh login", "letmein"),
    ("SSH_IDENTITY", PRIVATE_KEY, None),
    ("LICENSE_KEY", "A1B2C3D4E5F6G7H8I9", None),
    ("webhook", WEBHOOK, None),
    ("SESSION", "eyJhbGciOiJIUzI1" + ".eyJzdWIiOiIxMjM0NTY3." + "c2lnbmF0dXJl", None),
]
HARMLESS = [
    ("GIT_COMMIT", HEX),
    ("comment", f"commit {HEX}"),
    ("comment", HEX),
    ("DATA_SHA1", HEX),
    ("WANDB_GIT_COMMIT", HEX),
    ("", f"git checkout {HEX} && wandb offline"),
    ("MD5", "d41d8cd98f00b204e9800998ecf8427e"),
    ("SHA256", HEX + "0123456789abcdef01234567"),
    ("name", "coco-yolov5l-2026-11-26-seed42"),
    ("name", "sk-learn-baseline-yolov5l-long-run-of-may"),
    ("name", "hf_finetune_yolov5l"),
    ("job-name", "token-pruning-yolov5l"),
    ("data", "/scratch/project_465000123/coco2017.yaml"),
    ("path", f"/data/objects/3f/{HEX}"),
    ("output", "/p/scratch/cstdl/passwords-detection/runs"),
    ("WANDB_API_KEY", "${WANDB_API_KEY}"),
    ("WANDB_API_KEY", "$WANDB_API_KEY"),
    ("", "export HF_TOKEN=$(cat ~/.cache/huggingface/token)"),
    ("", "export WANDB_API_KEY=`cat ~/.wandb`"),
    ("HF_TOKEN_PATH", "/home/me/.cache/huggingface/token"),
    ("TOKEN", "secrets/hf.txt"),
    ("API_KEY", "file:~/.config/key"),
    ("TOKENIZERS_PARALLELISM", "false"),
    ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"),
    ("MAX_TOKEN", "4096"),
    ("PAD_TOKEN", "<pad-it>"),
    ("PWD", "relative/directory"),
    ("SSH_AUTH_SOCK", "/tmp/ssh-a1B2c3D4e5F6g7H8/agent.1"),
    ("NCCL_SOCKET_IFNAME", "ib0,ib1"),
    ("NCCL_IB_HCA", "mlx5_0:1,mlx5_1:1,mlx5_2:1,mlx5_3:1"),
    ("SLURM_CPU_BIND", "mask_cpu:fe000000000000,fe00000000000000,fe0000,fe000000,fe,fe00,fe00000000,fe0000000000"),
    ("CUDA_VISIBLE_DEVICES", "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"),
    ("SORT_KEY", "map50_95"),
    ("gres", "nvme:50"),
    ("mail-user", "me@example.org"),
    ("image", "docker://nvcr.io/nvidia/pytorch:24.05-py3"),
    ("image", "docker://a/b@sha256:" + HEX + "0123456789abcdef01234567"),
    ("proxy", "http://proxy.example.org:3128"),
    ("source", "rtsp://user@camera-3.example.org/stream"),
    ("", "git clone git@github.com:me/project.git"),
    ("", "scp -r results me@login:/home/me"),
    ("", "python keys.py --key-points 17 --passes 3 --token-file ~/.token"),
    ("", 'for key in "${!table[@]}"; do echo $key; done'),
    ("", "apptainer registry login --password-stdin"),
    ("account", "def-smith-ab"),
    ("AWS_PROFILE", "AKIArea-51"),
    ("password", "***"),
    ("secret", "<your key>"),
]


@pytest.mark.parametrize(("name", "value", "secret"), KEYS)
def test_key_is_found_alone_and_not_shown(name, value, secret):
    (found,) = find_credentials(name, value)
    assert found.text == (value if secret is None else secret)
    assert found.text not in found.shown + found.what + found.remedy


@pytest.mark.parametrize(("name", "value"), HARMLESS)
def test_harmless_value_passes(name, value):
    assert list(find_credentials(name, value)) == []


SPEC = f"""\
name: small
model: yolov5n
data: shapes.yaml  # with {HUGGING_FACE}
cluster:
  setup: |
    module load cuda
    export WANDB_API_KEY={HEX}
  env: {{HF_HOME: /scratch, DB_PASSWORD: hunter2}}
  prefix: [start, --token, abcd1234]
  mistake: {{api_key: letmein}}
train: {{epochs: "ghp_{MIXED}"}}
"""


def test_keys_are_reported_at_their_positions_and_in_no_message(spec_file):
    problems = spec_file.write(SPEC).problems("cluster.env.MY_TOKEN=abcdefgh")
    heads = [problem.splitlines()[0].removeprefix(f"{spec_file.path}:") for problem in problems]
    expected = [
        "3:27: looks like a token of Hugging Face (hf_…), and a spec must hold none: hf auth login keeps it",
        "7:26: cluster.setup: looks like a key of Weights & Biases, and a spec must hold none: wandb login keeps it in"
        " ~/.netrc",
        "8:41: cluster.env.DB_PASSWORD: looks like a key or a password (7 characters), and a spec must hold none: write"
        " ${DB_PASSWORD} instead and export it where you submit, and sbatch passes it on, or use the login of the tool",
        "9:28: cluster.prefix[2]: looks like a key or a password (8 characters), ",
        "10:22: cluster.mistake.api_key: looks like a key or a password (7 characters), ",
        "11:18: train.epochs: looks like a token of GitHub (ghp_…), ",
        "--set cluster.env.MY_TOKEN=…: cluster.env.MY_TOKEN: looks like a key or a password (8 characters), ",
    ]
    for start in expected:
        assert sum(head.startswith(start) for head in heads) == 1, (start, heads)
    assert any(head.startswith("11:17: train.epochs: 'ghp_…' is not allowed") for head in heads), heads
    for secret in (HUGGING_FACE, HEX, "hunter2", "abcd1234", "letmein", MIXED, "abcdefgh"):
        assert secret not in "\n".join(problems)


def test_key_in_text_that_is_no_yaml_is_not_shown(spec_file):
    (syntax, key) = spec_file.write(f"name: [small\nhf: {HUGGING_FACE}: x\n").problems()
    assert HUGGING_FACE not in syntax + key and "2:5: looks like a token of Hugging Face" in key


@pytest.mark.parametrize(("field", "path"), [("setup", "cluster.setup: "), ("mem", "")], ids=["block", "no block"])
def test_private_key_is_shown_in_no_line(spec_file, field, path):
    block = "".join(f"\n    {line}" for line in PRIVATE_KEY.splitlines())
    problems = "\n".join(spec_file.add(f"cluster:\n  {field}: |{block}\n").problems())
    assert f"{spec_file.path}:6:5: {path}looks like a private key, and a spec must hold none: " in problems
    assert "b3BlbnNz" not in problems and "AAAA" not in problems


def test_submitted_spec_is_read_again_and_only_options_are_searched(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("name: a\nmodel: yolov5n\ndata: /d.yaml\ncluster: {env: {A_TOKEN: abcdefgh}}\n")
    assert load_resolved_spec(path).cluster.env == {"A_TOKEN": "abcdefgh"}
    with pytest.raises(
        SpecError, match=r"--set cluster.env.B_TOKEN=…: cluster.env.B_TOKEN: looks like a key"
    ) as caught:
        load_resolved_spec(path, [Override("cluster.env.B_TOKEN", "ijklmnop", "--set cluster.env.B_TOKEN=ijklmnop")])
    assert "ijklmnop" not in str(caught.value)


def test_variable_that_is_passed_by_name_is_accepted(spec_file):
    spec = spec_file.add("cluster: {env: {WANDB_API_KEY: '${WANDB_API_KEY}'}}\n").load()
    assert spec.cluster.env == {"WANDB_API_KEY": "${WANDB_API_KEY}"}
