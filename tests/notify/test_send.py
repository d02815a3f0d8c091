"""Messages by mail, webhook and command, to servers that take them, refuse, fail or never answer."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest
from loopback_servers import MailServer, WebServer, closed_port, serving, silent_port

from hpc_yolo.notify import send as sending
from hpc_yolo.notify import ways
from hpc_yolo.notify.message import Message
from hpc_yolo.notify.send import send, send_once
from hpc_yolo.runs.notices import read_notices
from hpc_yolo.spec.notify import NotifySpec

SECRET = "T00/B00/" + "s3cr3tXy7Q" * 3
METRICS = {"precision": 0.5, "recall": 0.4, "map50": 0.6, "map50_95": 0.41234}


@pytest.fixture
def message(run) -> Message:
    return Message(event="finished", name="näme", directory=str(run.path), metrics=METRICS, best_epoch=3)


@pytest.fixture
def short_limits(monkeypatch):
    monkeypatch.setattr(ways, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(ways, "COMMAND_TIMEOUT_S", 0.2)


def test_mail_has_subject_text_and_all_recipients(message):
    server = MailServer()
    with serving(server):
        spec = NotifySpec(mail=["me@example.org", "us@example.org"], smtp=server.host)
        assert send(spec, message, {}) == {"mail": ""}
    (mail,) = server.mails
    assert mail["Subject"] == "[hpc-yolo] näme finished: mAP50-95 0.412"
    assert (mail["To"], mail["From"]) == ("me@example.org, us@example.org", "hpc-yolo <me@example.org>")
    assert mail.get_content().replace("\r\n", "\n") == message.text
    assert "best       epoch 3: precision 0.5000, recall 0.4000, mAP50 0.6000, mAP50-95 0.4123\n" in message.text


def test_sendmail_of_the_host_is_used_without_a_host(message, tmp_path):
    sendmail = tmp_path / "sendmail"
    sendmail.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\ncat > {tmp_path}/mail\n')
    sendmail.chmod(0o755)
    spec = NotifySpec(mail="me@example.org")
    assert send(spec, message, {"PATH": f"{tmp_path}:/usr/bin:/bin"}) == {"mail": ""}
    assert (tmp_path / "arguments").read_text() == "-i -f me@example.org -- me@example.org\n"
    assert "Auto-Submitted: auto-generated\n" in (tmp_path / "mail").read_text()


@pytest.mark.parametrize(
    ("refuses", "reason"),
    [
        ("RCPT", "refuses the recipients: 550 not here"),
        ("DATA", "550"),
        ("MAIL", "550"),
    ],
)
def test_mail_that_a_server_refuses_has_its_reason(message, refuses, reason):
    server = MailServer(refuses)
    with serving(server):
        results = send(NotifySpec(mail="me@example.org", smtp=server.host), message, {})
    assert server.host in results["mail"] and reason in results["mail"]


def test_webhook_gets_text_and_facts(message):
    server = WebServer()
    with serving(server):
        spec = NotifySpec(webhook="${HOOK}")
        assert send(spec, message, {"HOOK": f"{server.address}/{SECRET}"}) == {"webhook": ""}
    ((path, facts),) = server.posts
    assert path == f"/{SECRET}"
    assert facts["text"].startswith(message.subject) and facts["content"] == facts["text"]
    assert (facts["event"], facts["metrics"], facts["best_epoch"]) == ("finished", METRICS, 3)


def test_long_error_is_cut_for_chats_alone(run):
    long = Message(event="failed", name="x", directory="/x", error=["e" * 5000])
    facts = json.loads(long.payload())
    assert len(facts["content"]) < 2000 < len(facts["text"])


@pytest.mark.parametrize(
    ("status", "reason"), [(500, "the server answers 500"), (404, "answers 404"), (302, "answers 302")]
)
def test_webhook_that_fails_is_reported_without_its_address(message, status, reason):
    server = WebServer(status)
    with serving(server):
        results = send(NotifySpec(webhook="$HOOK"), message, {"HOOK": f"{server.address}/{SECRET}"})
    assert reason in results["webhook"] and SECRET not in results["webhook"]
    assert len(server.posts) == 1


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (None, "the variable HOOK is not set"),
        ("not an address", "$HOOK holds no address that begins with https:// or http://"),
        (f"http://[{SECRET}", "the address is not valid"),
        (f"http://host:port/{SECRET}", "the address is not valid"),
    ],
)
def test_wrong_address_is_not_shown(message, address, reason):
    environ = {} if address is None else {"HOOK": address}
    assert send(NotifySpec(webhook="$HOOK"), message, environ) == {"webhook": reason}


def test_address_in_a_file_of_its_owner_alone(message, tmp_path):
    server, file = WebServer(), tmp_path / "webhook"
    file.write_text(f"{server.address}/{SECRET}\n")
    spec = NotifySpec(webhook="file:~/webhook")
    with serving(server):
        file.chmod(0o640)
        refused = send(spec, message, {"HOME": str(tmp_path)})
        assert refused == {"webhook": f"{file} may be read by others (mode 640): chmod 600 {file}"}
        file.chmod(0o600)
        assert send(spec, message, {"HOME": str(tmp_path)}) == {"webhook": ""}
    file.unlink()
    assert send(spec, message, {"HOME": str(tmp_path)}) == {"webhook": f"{file}: No such file or directory"}


def test_server_that_never_answers_and_one_that_is_not_there(message, short_limits):
    with silent_port() as port:
        spec = NotifySpec(
            mail="me@example.org", smtp=f"127.0.0.1:{port}", webhook=f"http://127.0.0.1:{port}/", command="sleep 60"
        )
        results = send(spec, message, {"PATH": "/usr/bin:/bin"})
    silent = "no answer within 0 s"
    assert results == {"mail": f"127.0.0.1:{port}: {silent}", "webhook": silent, "command": "not ended after 0 s"}
    port = closed_port()
    gone = NotifySpec(mail="me@example.org", smtp=f"127.0.0.1:{port}", webhook=f"http://127.0.0.1:{port}/")
    assert send(gone, message, {}) == {
        "mail": f"127.0.0.1:{port}: Connection refused",
        "webhook": "Connection refused",
    }


def test_way_without_an_end_is_left_behind_at_the_limit(message, monkeypatch):
    with silent_port() as port:
        results = send(NotifySpec(webhook=f"http://127.0.0.1:{port}/"), message, {}, limit_s=0.1)
    assert results == {"webhook": "no end within 0 s"}


def test_command_gets_json_and_variables(message, run):
    words = [sys.executable, "-c", "import sys, os; open('got', 'w').write(os.environ['HPC_YOLO_EVENT'] + input())"]
    assert send(NotifySpec(command=words), message, {}) == {"command": ""}
    event, facts = (run.path / "got").read_text().split("{", 1)
    assert event == "finished" and json.loads("{" + facts)["metrics"] == METRICS


def test_command_that_fails_is_reported_with_its_last_line_but_no_secret(message):
    spec = NotifySpec(webhook="$HOOK", command='echo "cannot reach $HOOK" >&2; exit 3')
    environ = {"HOOK": f"http://127.0.0.1:{closed_port()}/{SECRET}", "PATH": "/usr/bin:/bin"}
    assert send(spec, message, environ)["command"] == "exit code 3: cannot reach …"
    spec = NotifySpec(command=r"printf '\033[31mno\tmail\r\n' >&2; exit 3")
    assert send(spec, message, environ)["command"] == "exit code 3: \\x1b[31mno mail"
    missing = send(NotifySpec(command=["/no/such/command"]), message, {})
    assert missing == {"command": "/no/such/command: No such file or directory"}


def test_bug_in_a_way_is_no_error_of_the_run(message, monkeypatch):
    monkeypatch.setattr(sending, "send_mail", lambda *_: 1 / 0)
    assert send(NotifySpec(mail="me@example.org"), message, {}) == {"mail": "ZeroDivisionError in hpc-yolo"}


def test_message_is_sent_once_and_recorded_without_its_address(run, message, capsys):
    server = WebServer()
    spec = NotifySpec(webhook="$HOOK", on=["finished"])
    environ = {"HOOK": f"{server.address}/{SECRET}"}

    def once(key: str, event: str = "finished"):
        return send_once(run, spec, key, lambda: message, environ, event=event)

    with serving(server):
        assert once("end-1") is not None and once("end-1") is None
        assert once("end-2", "failed") is None, "the spec does not ask for it"
        assert once("end-3") is not None, "another end"
    assert len(server.posts) == 2
    assert [(notice.key, notice.state, notice.results) for notice in read_notices(run)] == [
        ("end-1", "sent", {"webhook": ""}),
        ("end-3", "sent", {"webhook": ""}),
    ]
    assert capsys.readouterr().out == "hpc-yolo: notify: webhook about finished: sent\n" * 2
    for path in run.path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes()
    assert stat.S_IMODE(next(run.notices.iterdir()).stat().st_mode) == 0o600


def test_directory_that_cannot_be_written_is_no_error_of_the_run(run, message, capsys):
    run.notices.write_text("in the way")
    assert send_once(run, NotifySpec(command="true"), "end-1", lambda: message, {}, event="finished") is not None
    assert "hpc-yolo: notify: " in capsys.readouterr().out
    assert Path(run.notices).is_file()
