"""Where wandb finds its key decides between online and offline; no key is read by this package."""

import sys
from types import SimpleNamespace

import pytest
from loopback_servers import WebServer, closed_port, serving

from hpc_yolo.core.errors import TrackerError
from hpc_yolo.tracking.tracker import TrackedRun, tracker_errors
from hpc_yolo.tracking.wandb_run import OFFLINE, ONLINE, WandbTracker, has_key


def login(path, host):
    path.write_text(f"machine {host}\n  login user\n  password {'k' * 40}\n")
    path.chmod(0o600)


@pytest.mark.parametrize(
    ("environ", "host", "expected"),
    [
        ({}, None, False),
        ({"WANDB_API_KEY": ""}, None, False),
        ({"WANDB_API_KEY": "k"}, None, True),
        ({}, "api.wandb.ai", True),
        ({}, "api.github.com", False),
        ({"WANDB_BASE_URL": "https://wandb.example.org:8080"}, "api.wandb.ai", False),
        ({"WANDB_BASE_URL": "https://wandb.example.org:8080"}, "wandb.example.org", True),
        ({"WANDB_BASE_URL": "https://wandb.example.org:8080"}, "wandb.example.org:8080", True),
    ],
)
def test_key_is_found_where_wandb_keeps_it(environ, host, expected, tmp_path):
    if host is not None:
        login(tmp_path / ".netrc", host)
    assert has_key({"HOME": str(tmp_path)} | environ) is expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [("[default]\nbase_url = http://wandb.here:8080\n", True), ("[default]\nentity = %x\n", False), ("torn", False)],
)
def test_key_for_the_server_of_an_earlier_login(settings, expected, tmp_path):
    """So `wandb login --host` leaves it."""
    login(tmp_path / ".netrc", "wandb.here:8080")
    path = tmp_path / ".config" / "wandb" / "settings"
    path.parent.mkdir(parents=True)
    path.write_text(settings)
    assert has_key({"HOME": str(tmp_path)}) is expected
    assert not has_key({"HOME": str(tmp_path), "WANDB_BASE_URL": "https://api.wandb.ai"})


def test_file_of_keys_elsewhere_or_torn(tmp_path):
    login(tmp_path / "keys", "api.wandb.ai")
    (tmp_path / ".netrc").write_text("machine")
    assert not has_key({"HOME": str(tmp_path)})
    assert has_key({"HOME": str(tmp_path), "NETRC": str(tmp_path / "keys")})


@pytest.mark.parametrize(
    ("environ", "is_offline", "mode"),
    [
        ({}, False, OFFLINE),
        ({"WANDB_API_KEY": "k"}, False, ONLINE),
        ({"WANDB_API_KEY": "k"}, True, OFFLINE),
        ({"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, False, OFFLINE),
    ],
)
def test_mode_and_arguments(environ, is_offline, mode, tmp_path, monkeypatch):
    """Online, the number of rows is the step at which wandb resumes the run."""
    calls = []
    run = SimpleNamespace(step=7, url="https://wandb/run", define_metric=lambda *_names, **_options: None)

    def init(**arguments):
        calls.append(arguments)
        return run

    server = WebServer()
    with serving(server):
        settings = SimpleNamespace(settings=SimpleNamespace(base_url=server.address))
        wandb = SimpleNamespace(init=init, Settings=lambda **settings: settings, setup=lambda: settings)
        monkeypatch.setitem(sys.modules, "wandb", wandb)
        tracker = WandbTracker("team/coco", is_offline=is_offline, environ={"HOME": str(tmp_path)} | environ)
        num_rows = tracker.open(TrackedRun("0123456789", "run", {}, tmp_path))
    (arguments,) = calls
    assert (arguments["entity"], arguments["project"], arguments["id"]) == ("team", "coco", "0123456789")
    assert (arguments["mode"], num_rows) == (mode, 7 if mode == ONLINE else 0)
    assert arguments["resume"] == ("allow" if mode == ONLINE else None)
    assert tracker.location == (run.url if mode == ONLINE else f"wandb sync {tmp_path}/wandb/run-01234567/offline-run")


def test_server_that_does_not_answer_is_found_out_before_wandb_begins(tmp_path, monkeypatch):
    """A failed `init` of wandb lets none of the same run succeed in the same process."""
    settings = SimpleNamespace(settings=SimpleNamespace(base_url=f"http://127.0.0.1:{closed_port()}"))
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(setup=lambda: settings))
    tracker = WandbTracker("coco", is_offline=False, environ={"WANDB_API_KEY": "k" * 40})
    with pytest.raises(TrackerError, match="Connection refused"):
        tracker.open(TrackedRun("0123456789", "run", {}, tmp_path))
    assert not (tmp_path / "wandb").exists()


@pytest.mark.parametrize(
    ("environ", "own"), [({"http_proxy": "socks5h://127.0.0.1:1"}, None), ({}, "http://127.0.0.1:1")]
)
def test_server_behind_a_proxy_of_wandb_is_left_to_wandb(environ, own, tmp_path, monkeypatch):
    """Standard Python supports no SOCKS, and knows no proxy of wandb's settings."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    settings = SimpleNamespace(settings=SimpleNamespace(base_url="http://wandb.invalid", http_proxy=own))
    wandb = SimpleNamespace(
        init=lambda **_arguments: 1 / 0, Settings=lambda **settings: settings, setup=lambda: settings
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    tracker = WandbTracker("coco", is_offline=False, environ={"WANDB_API_KEY": "k" * 40})
    with pytest.raises(TrackerError, match="division"):
        tracker.open(TrackedRun("0123456789", "run", {}, tmp_path))


def test_directories_of_failed_tries_are_removed(tmp_path, monkeypatch):
    wandb = SimpleNamespace(init=lambda **_arguments: 1 / 0, Settings=lambda **settings: settings)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for _ in range(3):
        with pytest.raises(TrackerError, match="division"):
            WandbTracker("coco", is_offline=True, environ={}).open(TrackedRun("0123456789", "run", {}, tmp_path))
    assert len(list((tmp_path / "wandb" / "run-01234567").iterdir())) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("request to http://me:pass@word@host:80/api failed", "request to http://host:80/api failed"),
        ("cannot open postgresql://me:secret@db/x", "cannot open postgresql://db/x"),
        ("see https://mlflow.org/docs or mail me@example.org", "see https://mlflow.org/docs or mail me@example.org"),
    ],
)
def test_error_shows_no_password_of_an_address(text, shown):
    with pytest.raises(TrackerError) as error, tracker_errors("mlflow", OSError):
        raise OSError(text)
    assert error.value.args[0].partition("\n")[0] == f"mlflow: {shown}"


@pytest.mark.parametrize(
    ("error", "hint", "text"),
    [
        (OSError("no answer\n  within 90 s"), "offline", "wandb: no answer within 90 s\n  hint: offline"),
        (ValueError(), None, "wandb: ValueError"),
    ],
    ids=["lines", "nothing"],
)
def test_error_of_a_package_is_one_line(error, hint, text):
    with pytest.raises(TrackerError) as raised, tracker_errors("wandb", Exception, hint=hint):
        raise error
    assert str(raised.value) == text
