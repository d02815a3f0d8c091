"""A run in Weights & Biases: online where a key is found, else as an offline directory for `wandb sync`.

wandb cannot append to an offline directory, and what it has of a killed process ends somewhere. So a process that
follows a run offline writes the whole series into a new directory, and exchanges it for the old one when it is as long.
"""

from __future__ import annotations

import configparser
import contextlib
import netrc
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hpc_yolo.core.files import make_directory
from hpc_yolo.runs.run_end import RunEnd
from hpc_yolo.runs.series import Row
from hpc_yolo.tracking.tracker import TrackedRun, Tracker, imported, tracker_errors

OFFLINE, ONLINE = "offline", "online"
DEFAULT_SERVER = "https://api.wandb.ai"
LINK = "offline-run"
ANSWER_S = 20.0


class WandbTracker(Tracker):
    """Resumes the run by its id; wandb's own step is the index of a row, and charts have `step` as their axis."""

    def __init__(self, project: str, *, is_offline: bool, environ: Mapping[str, str]) -> None:
        """Initialize the tracker.

        Args:
            project: name of the project, or entity/project.
            is_offline: write a directory even where a key is found.
            environ: environment variables, among them those of wandb.

        Raises:
            InstallationError: wandb is not installed.
        """
        self._entity, _, self._project = project.rpartition("/")
        is_offline = is_offline or environ.get("WANDB_MODE") in ("offline", "dryrun") or not has_key(environ)
        self._mode = OFFLINE if is_offline else ONLINE
        self._wandb: Any = imported("wandb", "wandb", "wandb")
        self._run: Any = None
        self._base = self._directory = Path()
        self._is_published = False

    @property
    def location(self) -> str:
        """The address of the run, or the command that sends its directory."""
        return str(self._run.url) if self._mode == ONLINE else f"wandb sync {self._base / LINK}"

    def open(self, run: TrackedRun) -> int:
        """Resume or begin the run, and return the number of rows that the server has; offline always 0.

        Raises:
            TrackerError: wandb refuses, or the server does not answer.
        """
        self._base = run.directory / "wandb" / run.file_name
        self._directory = self._base / str(time.time_ns())
        hint = "without network: --offline, tracking.offline or WANDB_MODE=offline writes a directory for wandb sync"
        with tracker_errors("wandb", Exception, hint=hint if self._mode == ONLINE else None):
            if self._mode == ONLINE:
                self._require_server()
            make_directory(self._base.parent)
            make_directory(self._base)
            self._remove_all_but((self._base / LINK).resolve().parent.parent.name)
            make_directory(self._directory)
            self._run = self._wandb.init(
                entity=self._entity or None,
                project=self._project,
                id=run.id,
                name=run.name,
                config=dict(run.config),
                dir=str(self._directory),
                mode=self._mode,
                resume="allow" if self._mode == ONLINE else None,
                reinit="create_new",
                settings=self._settings(),
            )
            self._run.define_metric("step")
            self._run.define_metric("*", step_metric="step")
        return int(self._run.step) if self._mode == ONLINE else 0

    def _require_server(self) -> None:
        """Raise OSError if nothing answers at the server's address: after a failed `init` no other succeeds here."""
        import ssl
        from urllib import error, request

        settings = self._wandb.setup().settings
        scheme = urlsplit(settings.base_url).scheme
        if getattr(settings, f"{scheme}_proxy", None) or request.getproxies().get(scheme, "").startswith("socks"):
            return  # a proxy of wandb's own settings, or one of a kind that only wandb supports
        try:
            request.urlopen(settings.base_url, timeout=ANSWER_S).close()
        except error.HTTPError as answer:
            answer.close()
        except error.URLError as failure:
            if not isinstance(failure.reason, ssl.SSLError):  # wandb has certificates of its own
                raise

    def log(self, rows: Sequence[Row]) -> None:
        """Log `rows`.

        Raises:
            TrackerError: wandb refuses them.
        """
        with tracker_errors("wandb", Exception):
            for row in rows:
                self._run.log({"step": row.step, **row.values, "_timestamp": row.time}, step=row.index)
            self._publish()

    def close(self, end: RunEnd | None) -> None:
        """Finish the run: as failed only where it has failed.

        Raises:
            TrackerError: the server does not answer.
        """
        if self._run is not None:
            with tracker_errors("wandb", Exception):
                self._run.finish(exit_code=0 if end is None or end.is_finished or end.is_by_person else 1)

    def _publish(self) -> None:
        """Exchange the directory of earlier processes for the one of this process."""
        if self._is_published:
            return
        self._is_published = True
        if self._mode == OFFLINE:
            link = self._directory / LINK
            link.symlink_to(Path(self._run.dir).parent.relative_to(self._base))
            link.replace(self._base / LINK)
        self._remove_all_but(self._directory.name)

    def _remove_all_but(self, name: str) -> None:
        """Remove the directories of other processes and of tries that have failed, whose values are in the journal."""
        for other in self._base.iterdir():
            if other.name not in (LINK, name):
                shutil.rmtree(other, ignore_errors=True)

    def _settings(self) -> Any:
        """Return settings without output of wandb, and without anything about this process, which does not train."""
        return self._wandb.Settings(
            silent=True,
            console="off",
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            x_disable_stats=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
        )


def has_key(environ: Mapping[str, str]) -> bool:
    """Return whether wandb's own places have a key for its server: the environment, or ~/.netrc as `wandb login`."""
    if environ.get("WANDB_API_KEY"):
        return True
    home = Path(environ.get("HOME", ""))
    server = urlsplit(environ.get("WANDB_BASE_URL") or _server_of_settings(environ, home) or DEFAULT_SERVER)
    for path in (environ.get("NETRC"), home / ".netrc", home / "_netrc"):
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            known = netrc.netrc(str(path)) if path else None
            if known is not None and any(map(known.authenticators, (server.netloc, server.hostname or ""))):
                return True
    return False


def _server_of_settings(environ: Mapping[str, str], home: Path) -> str:
    """Return the server that `wandb login --host` has recorded; "" for none."""
    directory = environ.get("WANDB_CONFIG_DIR") or home / ".config" / "wandb"
    settings = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(OSError, UnicodeDecodeError, configparser.Error):
        settings.read(Path(directory, "settings"))
    return settings.get("default", "base_url", fallback="")
