"""The section notify: what it may hold, and secrets in it."""

import re
from pathlib import Path

import pytest

from hpc_yolo.core.errors import SpecError
from hpc_yolo.launch.notify_checks import notify_warnings
from hpc_yolo.spec.data import DataSpec
from hpc_yolo.spec.load import dump_spec, load_resolved_spec
from hpc_yolo.spec.notify import NotifySpec
from hpc_yolo.spec.schema import ClusterSpec, Spec

HOOK_ID = "x7q9zk3m5t8w2yb4" + "c6v1"


@pytest.mark.parametrize(
    ("written", "problem", "allowed"),
    [
        ("{}", "notify: names no way to send a message", "at least one of mail, webhook, command"),
        ("{on: [failed]}", "notify: names no way", "mail, webhook, command"),
        ("{mail: me}", "notify.mail: 'me' is not a mail address", "such as me@example.org"),
        ("{mail: [a@b.org, 'c d@e']}", "notify.mail: 'c d@e' is not a mail address", "such as"),
        ("{mail: []}", "notify.mail: is empty", "such as"),
        ("{mail: a@b.org, smtp: 'smtp://host'}", "notify.smtp: 'smtp://host' is not a host", "HOST or HOST:PORT"),
        ("{webhook: hooks.example.org}", "notify.webhook: 'hooks.example.org' is not an address", "${VARIABLE}"),
        ("{webhook: 'file:'}", "notify.webhook: 'file:' is not an address", "file:PATH of a file with mode 600"),
        ("{command: ''}", "notify.command: is empty", "a line of bash, or a list of words"),
        ("{command: []}", "notify.command: is empty", "a line of bash"),
        ("{mail: a@b.org, on: []}", "notify.on: is empty", "finished, failed, cancelled, problem"),
        ("{mail: a@b.org, on: [ended]}", "notify.on[0]: 'ended' is not allowed", "finished, failed"),
        ("{email: a@b.org}", "notify.email: unknown field", "mail is the nearest"),
    ],
)
def test_mistake_is_reported_with_what_is_allowed(spec_file, written, problem, allowed):
    found = [one for one in spec_file.add(f"notify: {written}\n").problems() if problem in one]
    assert len(found) == 1 and f"{spec_file.path}:4:" in found[0] and allowed in found[0]


def test_field_of_the_section_elsewhere_names_it(spec_file):
    assert "there is notify.webhook: move it there" in spec_file.add("webhook: $HOOK\n").only_problem()


@pytest.mark.parametrize(
    ("written", "recipients", "events", "command"),
    [
        ("{mail: 'a@b.org, c@d.org'}", ["a@b.org", "c@d.org"], ["finished", "failed", "problem"], []),
        ("{mail: [a@b.org], on: failed, smtp: 'mail:25'}", ["a@b.org"], ["failed"], []),
        ("{command: 'a | b'}", [], ["finished", "failed", "problem"], ["bash", "-e", "-c", "a | b"]),
        (
            "{command: [ssh, login, notify-send]}",
            [],
            ["finished", "failed", "problem"],
            ["ssh", "login", "notify-send"],
        ),
    ],
)
def test_forms_of_fields(spec_file, tmp_path, written, recipients, events, command):
    spec = spec_file.add(f"notify: {written}\n").load()
    assert (spec.notify.recipients, spec.notify.events, spec.notify.shell_command) == (recipients, events, command)
    dumped = tmp_path / "resolved.yaml"
    dumped.write_text(dump_spec(spec))
    assert load_resolved_spec(dumped) == spec


def test_command_may_be_a_block_of_lines(spec_file):
    spec = spec_file.add("notify:\n  command: |\n    true\n    cat > /dev/null\n").load()
    assert spec.notify.command == "true\ncat > /dev/null\n"


@pytest.mark.parametrize(
    ("address", "is_secret"),
    [
        ("https://hooks.slack.com/" + "services/T0000000/B0000000/" + HOOK_ID, True),
        ("https://discord.com/api/" + "webhooks/1234567890/" + HOOK_ID, True),
        (f"https://chat.example.org/hooks/{HOOK_ID}", True),
        ("https://flows.example.org/3f2c1a90-1111-4222-8333-444455556666", True),
        ("https://me:letmein@ci.example.org/hook", True),
        ("https://ci.example.org/hook?token=letmein", True),
        ("https://ci.example.org:8080/runs/yolov5l-2026/finished", False),
        ("http://monitor.cluster.example.org/hpc-yolo", False),
        ("${SLACK_WEBHOOK}", False),
        ("https://hooks.slack.com/services/$SLACK_PATH", False),
        ("file:~/.config/hpc-yolo/webhook", False),
    ],
)
def test_webhook_with_a_secret_part_is_refused_and_says_where_it_belongs(spec_file, address, is_secret):
    spec_file.add(f"notify: {{webhook: '{address}'}}\n")
    if not is_secret:
        assert spec_file.load().notify.webhook == address
        return
    problem = spec_file.only_problem()
    assert f"{spec_file.path}:4:" in problem and "notify.webhook: looks like an address with a secret part" in problem
    assert "write ${SLACK_WEBHOOK} instead" in problem and "file:~/.config/hpc-yolo/webhook" in problem
    assert HOOK_ID not in problem and "letmein" not in problem and "44445555" not in problem


@pytest.mark.parametrize(
    ("webhook", "environ", "sbatch", "warning"),
    [
        ("$HOOK", {"HOOK": "https://a.org"}, {}, None),
        ("$HOOK", {}, {}, "the variable HOOK is not set, so no message would be sent; hpc-yolo notify test tries it"),
        ("$HOOK", {"HOOK": "a.org"}, {}, "$HOOK holds no address that begins with https:// or http://"),
        ("file:/no/such", {}, {}, "/no/such: No such file or directory"),
        ("$HOOK", {"HOOK": "https://a.org"}, {"export": "NONE"}, "cluster.sbatch.export does not pass HOOK on"),
        ("$HOOK", {"HOOK": "https://a.org"}, {"export": ["ALL", "A=1"]}, None),
        ("$HOOK", {"HOOK": "https://a.org"}, {"export": "PATH,HOOK"}, None),
    ],
)
def test_webhook_that_would_not_be_known_is_a_warning(webhook, environ, sbatch, warning):
    spec = Spec(
        name="a", data=DataSpec(path="d"), notify=NotifySpec(webhook=webhook), cluster=ClusterSpec(sbatch=sbatch)
    )
    found = notify_warnings(spec, environ, for_slurm=True)
    assert (found == []) if warning is None else (len(found) == 1 and warning in found[0])


def test_command_that_bash_cannot_read_is_refused():
    with pytest.raises(SpecError, match=r"notify\.command: line 3: "):
        notify_warnings(
            Spec(name="a", data=DataSpec(path="d"), notify=NotifySpec(command="ls\nif true; then")), {}, for_slurm=False
        )


def test_examples_of_the_documentation_are_valid(spec_file):
    page = Path(__file__).parents[2] / "docs" / "notify.md"
    examples = re.findall(r"```yaml\n(.*?)```", page.read_text(), flags=re.DOTALL)
    assert len(examples) > 1 and all(spec_file.add(example).load().notify is not None for example in examples)
